import json
from pathlib import Path

import pytest

from bct_onnx.errors import UsageError
from bct_onnx.runtime.kernel_costs import KERNELS, Kernel, load, shipped
from bct_onnx.runtime.tuning import ROWS, rows_of, tune


@pytest.mark.parametrize("name", shipped())
def test_shipped_tables(name: str) -> None:
    costs = load(name)
    assert costs.name == name and tuple(costs.kernels) == KERNELS and costs.about
    one_row = {kernel: cost.ns(1, 768, 3072) for kernel, cost in costs.kernels.items()}
    prompt = {kernel: cost.ns(128, 768, 3072) for kernel, cost in costs.kernels.items()}
    assert min(one_row, key=lambda kernel: one_row[kernel]) == "nbits4"
    assert min(prompt, key=lambda kernel: prompt[kernel]) == "int8"


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    file = tmp_path / "copy.json"
    file.write_text(load("avx2").to_json(), encoding="utf-8")
    assert load(str(file)) == load("avx2")


def test_costs_grow_with_rows_and_weights() -> None:
    kernel = Kernel(10.0, ((1, 0.1), (64, 1.0)))
    times = [kernel.ns(rows, 100, 100) for rows in (1, 2, 8, 64, 65, 128)]
    assert times == sorted(times) and kernel.ns(128, 100, 100) - 10 == pytest.approx(2 * (kernel.ns(64, 100, 100) - 10))
    assert Kernel(0.0, ((4, 0.5),)).ns(1, 2, 3) == 3.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernels": {}}, "float"),
        ({"name": None, "branch_ns": "much"}, "could not convert"),
        ({"kernels": {name: {"call_ns": 0, "ns_per_weight": {"1": 0}} for name in KERNELS}}, "not positive"),
    ],
)
def test_broken_tables(tmp_path: Path, change: dict[str, object], message: str) -> None:
    file = tmp_path / "broken.json"
    file.write_text(json.dumps(json.loads(load("avx2").to_json()) | change), encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        load(str(file))


def test_a_file_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match="not a table of costs"):
        load(str(tmp_path / "a.json"))
    with pytest.raises(UsageError, match="no table of costs"):
        load(str(tmp_path / "b.json"))


def test_tuning_measures_every_kernel() -> None:
    told: list[str] = []
    costs = tune(
        "here", "a test", widths=(32, 64), weights=1 << 16, rounds=2, progress=lambda *given: told.append(given[0])
    )
    assert tuple(costs.kernels) == KERNELS and costs.branch_ns >= 0 and told[-1] == "done"
    for kernel in costs.kernels.values():
        assert [rows for rows, _ in kernel.rates] == list(ROWS)
        rates = [ns for _, ns in kernel.rates]
        assert all(ns > 0 for ns in rates) and rates == sorted(rates)
    assert [len(times) for _, times in rows_of(costs)] == [len(ROWS)] * len(KERNELS)
