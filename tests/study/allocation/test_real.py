"""A plan of the trained model in the repository, with real texts: better than as many bits for every tensor."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bct_onnx import recipe, registry
from bct_onnx.graph.load import load
from bct_onnx.rewriting import Options, rewrite
from bct_onnx.runtime.inputs import inputs_of
from bct_onnx.runtime.session import run, session
from bct_onnx.tasks.deviation import DeviationSums
from bct_onnx.tasks.samples import read_samples

BITS = 3
WEIGHTS = (
    "normalize,fold-constants,fuse-gelu,fuse-layer-norm,fuse-linear,calibrate{samples=64 products=true},"
    f"quantize-embeddings{{bits={BITS}}},quantize-weights{{bits={BITS} solver=gptq}}"
)


@pytest.mark.real
def test_better_than_the_same_bits_for_all(real_dir: Path, bundled_model: Path, tmp_path: Path) -> None:
    data, tokenizer = real_dir / "data" / "sst2" / "calibration.tsv", bundled_model.parent
    pipeline = recipe.with_data(registry.parse(WEIGHTS), data=data, tokenizer=tokenizer)
    samples = read_samples(data, inputs_of(load(bundled_model)), tokenizer=tokenizer, limit=512)
    batches = list(dataclasses.replace(samples, rows=samples.rows[1::4]).batches(32))  # of which no plan knows

    def distance(file: Path) -> float:
        exact, stored, sums = session(bundled_model), session(file), DeviationSums(logits=False)
        for each in batches:
            sums.add(run(exact, each)[0], run(stored, each)[0])
        total = sums.total()
        assert total is not None
        return total.sqnr_db

    uniform = rewrite(bundled_model, pipeline, options=Options(tmp_path / "uniform.onnx", check=False))
    ratio = uniform.after.ratio_parameters
    sized = recipe.with_size(pipeline, ratio=ratio)
    planned = rewrite(bundled_model, sized, options=Options(tmp_path / "planned.onnx", check=False))
    assert planned.allocation is not None and planned.allocation.ratio >= ratio
    assert planned.after.ratio_parameters == pytest.approx(planned.allocation.ratio, rel=1e-3)
    assert distance(tmp_path / "planned.onnx") > distance(tmp_path / "uniform.onnx") + 2
