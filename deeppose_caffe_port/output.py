"""The original's name (pyoutput.py) for `workflow.py output`: predictions on the training list; same options."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from deeppose_caffe_port.workflow import main

if __name__ == "__main__":
    sys.exit(main(["output", *sys.argv[1:]]))
