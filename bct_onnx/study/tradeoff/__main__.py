"""``python -m bct_onnx.study.tradeoff TASK``: build one row; see `bct_onnx.study.tradeoff.subprocess`."""

import sys
from pathlib import Path

from bct_onnx.study.tradeoff.subprocess import work

if __name__ == "__main__":
    work(Path(sys.argv[1]))
