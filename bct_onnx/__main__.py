"""``python -m bct_onnx``: the same as the command ``bct-onnx``."""

import sys

from bct_onnx.cli import main

if __name__ == "__main__":
    sys.exit(main())
