"""The original's demo: joints of one person in a picture, by predict.py with the settings of demo/pose_cfg.yaml.

python deepercut_tf/demo/singleperson.py --image photo.jpg --weights SNAPSHOT --out output/demo
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from deepercut_tf.demo.run import demo


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    return demo(__doc__, "image.png", "pose_cfg.yaml", "one", argv)


if __name__ == "__main__":
    sys.exit(main())
