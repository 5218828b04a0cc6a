"""The original's demo: joints of all persons in pictures, by predict.py with the settings of demo/pose_cfg_multi.yaml.

python deepercut_tf/demo/demo_multiperson.py photo.jpg --weights SNAPSHOT --out output/demo
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from deepercut_tf.demo import singleperson


def main(argv=None) -> int:
    """predict.py's, whose options all are taken."""
    return singleperson.main(argv, "pose_cfg_multi.yaml", "all")


if __name__ == "__main__":
    sys.exit(main())
