"""The known scores of trained models in fp32, to the last digit that was told."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bct_onnx.cli import options
from bct_onnx.runtime.session import session
from bct_onnx.tasks.catalogue import TASKS, load_task
from bct_onnx.tasks.evaluate import evaluate
from bct_onnx.tasks.feeding import Cached


@pytest.mark.real
def test_bundled_classifier(bundled_model: Path, real_dir: Path) -> None:
    task = load_task("classification", real_dir / "data/sst2/dev.tsv", real_dir / "models/tiny-bert-sst2")
    (score,) = evaluate({"model": session(bundled_model)}, task).values()
    assert score.sequences == 872 and round(score.metrics["accuracy"], 2) == 82.22


@pytest.mark.real
@pytest.mark.export
def test_stories_with_and_without_cache(exported: Callable[..., Path], real_dir: Path) -> None:
    data = real_dir / "data/tinystories/stories260k_ids.npz"
    model = session(exported("stories260k", cache=True))
    (score,) = evaluate({"whole": model}, load_task("perplexity", data, Path(), limit=100)).values()
    assert round(score.metrics["perplexity"], 3) == 4.086
    few = load_task("perplexity", data, Path(), limit=4)
    scores = evaluate({"whole": model, "one": Cached(model, 1), "seven": Cached(model, 7)}, few)
    for name in ("one", "seven"):
        away = scores[name].deviation
        assert away is not None and away.sqnr_db > 90 and away.agreement == 1.0
        assert scores[name].metrics["perplexity"] == pytest.approx(scores["whole"].metrics["perplexity"], rel=1e-5)


def test_the_command_names_the_tasks() -> None:
    assert tuple(TASKS) == options.TASKS
