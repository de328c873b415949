"""Which int8 kernels run here: by what products take, not by what the CPU lists."""

import pytest

from bct_onnx.runtime.int8_speed import Int8Speed, int8_speed
from bct_onnx.runtime.latency import CpuFeatures

AMX = Int8Speed(1500.0, 150.0, 150.0)
VNNI = Int8Speed(560.0, 185.0, 170.0)
AVX2 = Int8Speed(160.0, 126.0, 85.0)


@pytest.mark.parametrize(
    ("speed", "flags", "says"),
    [
        (AMX, ("avx2", "vnni", "amx"), "as AMX gives them"),
        (VNNI, ("avx2", "vnni", "amx"), "AMX, which is off where a process is bound to one CPU"),
        (VNNI, ("avx2", "vnni"), "as VNNI gives them"),
        (AVX2, ("avx2", "vnni"), "lists VNNI, which these products do not seem to use"),
        (AVX2, ("avx2",), "as AVX2 gives them"),
        (AVX2, None, "as AVX2 gives them"),
    ],
)
def test_the_summary_tells_what_runs(speed: Int8Speed, flags: tuple[str, ...] | None, says: str) -> None:
    summary = speed.summary(CpuFeatures("x86_64", "Some CPU", flags))
    assert says in summary and f"{speed.int8 / speed.fp32:.1f} times fp32" in summary
    assert (";" in summary) == (says not in (f"as {speed.kernels} gives them",))


def test_other_processors_have_other_kernels() -> None:
    assert "gives them" not in AVX2.summary(CpuFeatures("aarch64", "Neoverse", ("dotprod",)))


def test_it_is_measured_once() -> None:
    speed = int8_speed()
    assert min(speed.int8, speed.unsigned, speed.fp32) > 0 and int8_speed() is speed
