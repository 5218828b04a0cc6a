"""The original's demo: joints of all persons in a picture, by predict.py with the settings of demo/pose_cfg_multi.yaml.

python deepercut_tf/demo/demo_multiperson.py --image photo.jpg --weights SNAPSHOT --out output/demo
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from deepercut_tf.demo import singleperson


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    return singleperson.main(argv, __doc__, "image_multi.png", "pose_cfg_multi.yaml", "all")


if __name__ == "__main__":
    sys.exit(main())
