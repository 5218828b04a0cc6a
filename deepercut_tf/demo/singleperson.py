"""The original's demo: joints of one person in pictures, by predict.py with the settings of demo/pose_cfg.yaml.

python deepercut_tf/demo/singleperson.py photo.jpg --weights SNAPSHOT --out output/demo
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from deepercut_tf import predict


def main(argv=None, settings="pose_cfg.yaml", people="one") -> int:
    """predict.py's, whose options all are taken."""
    standard = ["--config", str(Path(__file__).with_name(settings)), "--people", people]
    return predict.main([*standard, *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
