"""``python -m bct_onnx.frontier TASK``: build one row; see `bct_onnx.frontier.apart`."""

import sys
from pathlib import Path

from bct_onnx.frontier.apart import work

if __name__ == "__main__":
    work(Path(sys.argv[1]))
