"""The original's refine script: predict.py with both stages, its arguments in the original's order.

python deeppose_caffe_port/predict_refine.py MODEL1.caffemodel MODEL2.caffemodel IMAGE [options of predict.py]
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from deeppose_caffe_port.predict import main

if __name__ == "__main__":
    model1, model2, *rest = sys.argv[1:] if len(sys.argv) > 3 else ("", "", "--help")
    sys.exit(main([f"--snapshot1={model1}", f"--snapshot2={model2}", *rest]))
