"""Size against quality: one model, compressed in many ways to many sizes, each measured on the same data.

Rows are this project's results at given ratios, the plainest rounding, the blocks of the BCT paper, other tools, and
this project's results with one ingredient left out. Each is built in a process of its own, which gives its time and
peak memory and keeps a failure from ending the run, then measured by `bct_onnx.study.Comparison`, and gone.
"""

from bct_onnx.study.tradeoff.ablations import WITHOUT
from bct_onnx.study.tradeoff.result import Frontier, Row, setting_of
from bct_onnx.study.tradeoff.rows import GROUPS, RATIOS, Job, Selection, jobs
from bct_onnx.study.tradeoff.running import collect, run

__all__ = [
    "GROUPS",
    "RATIOS",
    "WITHOUT",
    "Frontier",
    "Job",
    "Row",
    "Selection",
    "collect",
    "jobs",
    "run",
    "setting_of",
]
