from pathlib import Path

import pytest

from bct_onnx.runtime import latency as module
from bct_onnx.runtime.feeds import random_feeds
from bct_onnx.runtime.latency import Latency, Ratios, Speedup, cpu_features, measure
from bct_onnx.runtime.session import session
from tests.runtime import tiny


def test_summaries() -> None:
    times = Latency((5.0, 1.0, 2.0))
    assert (times.median_ms, times.min_ms) == (2.0, 1.0)
    assert times.speedup_over(Latency((8.0, 8.0))) == Speedup(4.0, 8.0)


def test_a_slow_round_is_slow_for_both() -> None:
    ours, theirs = Latency((1.0, 10.0, 1.0, 1.0, 2.0)), Latency((2.0, 20.0, 2.0, 2.5, 3.0))
    assert ours.ratios_over(theirs) == Ratios(2.0, 2.0, 2.0)
    assert Latency((2.0,)).ratios_over(Latency((3.0,))) == Ratios(1.5, 1.5, 1.5)


def test_rounds_are_interleaved_and_start_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[object] = []
    monkeypatch.setattr(module, "run", lambda session, feeds: order.append(session))
    result = measure({"a": "A", "b": "B", "c": "C"}, {}, rounds=3, warmup=2)
    assert order == [*"AABBCC", *"ABC", *"BCA", *"CAB"]
    assert list(result) == ["a", "b", "c"]
    assert all(len(latency.rounds_ms) == 3 for latency in result.values())


def test_no_round_starts_once_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def run(session: object, feeds: object) -> None:
        clock[0] += 2.0

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr("bct_onnx.runtime.latency.time.perf_counter", lambda: clock[0])
    for seconds, rounds in ((0.0, 1), (11.0, 2), (1000.0, 9)):
        result = measure({"a": "A", "b": "B"}, {}, rounds=9, warmup=1, seconds=seconds)  # warm in 4 s, a round takes 4
        assert {len(latency.rounds_ms) for latency in result.values()} == {rounds}


def test_real_sessions() -> None:
    sessions = {name: session(tiny.encoder(seed).SerializeToString()) for seed, name in enumerate("ab")}
    result = measure(sessions, random_feeds(sessions["a"], vocab=12), rounds=4)
    assert all(0 < latency.min_ms <= latency.median_ms for latency in result.values())


@pytest.mark.parametrize(
    ("line", "flags", "says"),
    [
        ("flags : fpu avx2 avx512f avx512_vnni amx_int8", ("avx2", "avx512", "vnni", "amx"), "AMX and VNNI"),
        ("flags : avx2 avx_vnni", ("avx2", "vnni"), "VNNI instructions"),
        ("flags\t\t: fpu avx avx2", ("avx2",), "saturate"),
        ("flags : fpu sse2", (), "little"),
        ("Features : fp asimd asimddp i8mm", ("dotprod", "i8mm"), "dot product instructions"),
        ("hardware : something", None, "unknown"),
    ],
)
def test_cpu_features(tmp_path: Path, line: str, flags: tuple[str, ...] | None, says: str) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor : 0\nmodel name : Some CPU\n{line}\n\nprocessor : 1\nmodel name : Some CPU\n{line}\n")
    cpu = cpu_features(file)
    assert cpu.model == "Some CPU" and cpu.flags == flags and says in cpu.int8


def test_cpu_features_where_the_system_is_silent(tmp_path: Path) -> None:
    assert cpu_features(tmp_path / "none").flags is None
    assert cpu_features(tmp_path / "none").architecture
