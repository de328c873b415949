"""What to do with a result: commands that fit this model."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

from bct_onnx import targets
from bct_onnx.report import Report


@dataclasses.dataclass(frozen=True)
class NextStep:
    """One thing to do: what, why, and the command."""

    title: str
    why: str
    command: str


def of(report: Report, source: Path, result: Path) -> list[NextStep]:
    """The steps, the most useful first."""
    model, small = shlex.quote(str(source)), shlex.quote(str(result))
    provider = " --provider openvino" if targets.find(report.target).engine else ""
    data = "--task TASK --data YOURS.csv --tokenizer FOLDER"
    steps = [
        NextStep(
            "Use it",
            "It is plain ONNX: load it where you loaded the source.",
            _loading(report.target, result),
        ),
        NextStep(
            "Score it on your data",
            "The one figure that counts: classification, similarity, retrieval, perplexity and others "
            "(bct-onnx compare -h).",
            f"bct-onnx compare {model} {small} {data}",
        ),
        NextStep(
            "Time it on your machine",
            "All cores, your shapes, and what ONNX Runtime's own quantization does with the same model.",
            f"bct-onnx bench {model} {small} --against ort-dynamic --shape 8x128 --shape 1x16 --threads 0{provider}",
        ),
        NextStep(
            "Smaller, with bits where they count",
            "Give each tensor the bits it needs for a size, or for a loss of score that you accept.",
            f"bct-onnx rewrite {model} -o smaller.onnx --target-ratio 12\n"
            f"bct-onnx rewrite {model} -o smallest.onnx --max-drop 0.5 {data}",
        ),
        NextStep(
            "More accurate",
            "8-bit weights, or calibration on your own text.",
            f"bct-onnx rewrite {model} -o accurate.onnx --preset w8a8\n"
            f"bct-onnx rewrite {model} -o calibrated.onnx --calibrate YOURS.csv --tokenizer FOLDER",
        ),
    ]
    if report.kept is None:
        steps.append(
            NextStep(
                "Look inside",
                "A file per pass, to be opened in Netron.",
                f"bct-onnx rewrite {model} -o again.onnx --keep-passes kept --verify-each",
            )
        )
    return steps


def _loading(target: str, result: Path) -> str:
    """How the runtime of a target loads a file."""
    if targets.find(target).engine:
        return f'import openvino\nmodel = openvino.Core().compile_model("{result}", "CPU")'
    return f'import onnxruntime\nsession = onnxruntime.InferenceSession("{result}")'
