"""The original's name (pyaccuracy.py) for val.py; same options."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from deeppose_caffe_port.val import main

if __name__ == "__main__":
    sys.exit(main())
