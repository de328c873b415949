"""Fixtures for every test, and the choice of the tests that this machine can run.

Five markers need more than the checkout: ``real`` (the trained models and data: ``BCT_REAL_DIR``, default
``../shared`` beside the checkout), ``export``, ``train``, ``openvino`` and ``cluster`` (the extras of these names).
What they need and is not here deselects them, and the run says so. A sixth, ``matrix``, takes too long to run unasked.
A folder that ``BCT_REAL_DIR`` names is never doubted: what is missing in it fails the test. A seventh, ``since``, names
the version of ONNX Runtime (or of another ``package``) that a test needs, and what older ones do instead.

An eighth, ``whole``, is set here, on every real test and on every other that asks for a whole model or a process by
the name of a fixture (`WHOLE`), and by hand on what takes as long as those: ``pytest -m "not whole"`` is the run of
every few minutes. See README.md.

The whole suite runs in a process per core (pytest-xdist); tests named on the command line run in one, unless ``-n``
says otherwise.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime as ort
import pytest
from hypothesis import settings

from tests import examples, versions
from tests.whole_models import (
    CHECKOUT,
    checkpoint,
    compressed,
    exported,
    exported_small,
    made_once,
    real_folder,
    rewritten,
    small_export,
)

__all__ = ["checkpoint", "compressed", "exported", "exported_small", "made_once", "rewritten", "small_export"]

if TYPE_CHECKING:
    pass

EXTRAS = {
    "export": ("torch", "transformers", "optimum"),
    "cluster": ("distributed",),
    "train": ("torch",),
    "openvino": ("openvino",),
}
WHOLE = frozenset({"bundled_model", "compressed", "rewritten", "checkpoint", "exported_small", "exported", "run_cli"})
"""Fixtures that give whole models, or a process."""

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
        _deselect(config, out, marker, reason)
    wanting = {item: reason for item in items if (reason := versions.lacks(item))}
    items[:] = [item for item in items if item not in wanting]
    for reason in dict.fromkeys(wanting.values()):
        _deselect(config, [item for item, why in wanting.items() if why == reason], "since", reason)


def pytest_collection_finish() -> None:
    """Let the collector of garbage leave alone what stays to the end, some hundred thousand objects,
    and look for cycles less often than after every 700 new objects: that took a twentieth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


def _deselect(config: pytest.Config, out: list[pytest.Item], marker: str, reason: str) -> None:
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
    if "BCT_REAL_DIR" not in os.environ and not real_folder().is_dir():
        missing["real"] = "no folder ../shared beside the checkout and BCT_REAL_DIR is not set"
    for extra, modules in EXTRAS.items():
        absent = [name for name in modules if importlib.util.find_spec(name) is None]
        if absent:
            missing[extra] = f"not installed: {', '.join(absent)} (pip install 'bct-onnx[{extra}]')"
    return missing


@pytest.fixture(scope="session")
def real_dir() -> Path:
    """Folder with the real ``models`` and ``data``; only for tests marked ``real``."""
    folder = real_folder()
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
