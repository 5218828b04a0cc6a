"""The original's refine script under a name of its own: predict.py with both stages, MODEL1 MODEL2 IMAGE in the
original's order.

python deeppose_caffe_port/predict_refine.py MODEL1.caffemodel MODEL2.caffemodel IMAGE [options of predict.py]
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from deeppose_caffe_port.predict import main


def arguments(words: list[str]) -> list[str]:
    """The original's positional arguments as options of predict.py."""
    if len(words) < 3 or any(w.startswith("-") for w in words[:3]):
        return words if "--help" in words else ["--help"]
    return [words[2], f"--snapshot1={words[0]}", f"--snapshot2={words[1]}", *words[3:]]


if __name__ == "__main__":
    sys.exit(main(arguments(sys.argv[1:])))
