"""The original's name for val.py; same options."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lpm_torch.val import main

if __name__ == "__main__":
    sys.exit(main())
