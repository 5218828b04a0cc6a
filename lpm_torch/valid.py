"""The original's name for val.py; same options."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lpm_torch.val import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
