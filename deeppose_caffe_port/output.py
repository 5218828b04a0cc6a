"""Stage 1's predictions on its training list, mirrored pictures included: data/NAME/stage1/output.txt (the original's pyoutput.py).

python deeppose_caffe_port/output.py --work=DIR [--snapshot1=ITERATION|FILE]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.poses import DataError  # noqa: E402
from common.settings import add_arguments  # noqa: E402
from deeppose_caffe_port.config import Config, settle  # noqa: E402


def write_output(config: Config) -> Path:
    """Each line: path, labels, predictions, absolute pixels with six decimals (section 3.4). Returns the file."""
    import numpy as np
    from tqdm import tqdm

    from deeppose_caffe_port.cascade import load_cascade
    from deeppose_caffe_port.images import read_picture
    from deeppose_caffe_port.prepare import dataset_folder, read_list, write_lines

    names, labels = read_list(config.model_folder(1) / "train_images.txt", 2 * len(config.skeleton))
    cascade, half = load_cascade(config, refine=False), np.array(config.size) / 2
    lines, step = [], 8 * config.batch_size
    for start in tqdm(range(0, len(names), step), desc="output", dynamic_ncols=True):
        part = names[start : start + step]
        found = cascade.stages([read_picture(config.project / name, config.allow_16bit) for name in part])[0]
        for name, label, guess in zip(part, labels[start : start + step], found):
            values = np.concatenate([(label.reshape(-1, 2) + half).ravel(), guess.ravel()])
            lines.append(name + "".join(f" {v:f}" for v in values) + "\n")
    path = dataset_folder(config) / "stage1" / "output.txt"
    write_lines(path, lines)
    return path


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, Config)
    try:
        print(f"written: {write_output(settle(vars(parser.parse_args(argv))))}")
    except (DataError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
