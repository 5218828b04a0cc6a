"""A stage's predictions on the training list, mirrored pictures included: data/NAME/stage1/output.txt (the original's pyoutput.py).

python deeppose_caffe_port/output.py --work=DIR [--stage=1 --snapshot1=ITERATION|FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from deeppose_caffe_port.config import Config  # noqa: E402
from deeppose_caffe_port.stage_program import stage_program  # noqa: E402


def write_output(config: Config, stage: int = 1) -> Path:
    """Each line: path, labels, predictions, absolute pixels with six decimals. Returns the file, data/NAME/stageN/output.txt.

    With `held_out` also output_held.txt beside it, of the training pictures that no stage is trained on.
    """
    from deeppose_caffe_port.cascade import load_cascade
    from deeppose_caffe_port.prepare import dataset_folder

    cascade, folder = load_cascade(config, stage), dataset_folder(config) / f"stage{stage}"
    if config.held_out:
        _write(config, cascade, config.model_folder(1) / "held_images.txt", folder / "output_held.txt")
    return _write(config, cascade, config.model_folder(1) / "train_images.txt", folder / "output.txt")


def _write(config: Config, cascade, source: Path, path: Path) -> Path:
    """A list of the LMDB tool -> its lines with predictions."""
    import numpy as np
    from tqdm import tqdm

    from deeppose_caffe_port.images import read_picture
    from deeppose_caffe_port.prepare import read_list, write_lines

    names, labels = read_list(source, config.outputs(1))
    half, lines, step = np.array(config.size) / 2, [], 8 * config.batch_size
    for start in tqdm(range(0, len(names), step), desc="output", dynamic_ncols=True):
        part = names[start : start + step]
        found = cascade.stages([read_picture(config.project / name, config.allow_16bit) for name in part])[-1]
        for name, label, guess in zip(part, labels[start : start + step], found):
            values = np.concatenate([(label.reshape(-1, 2) + half).ravel(), guess.ravel()])
            lines.append(name + "".join(f" {v:f}" for v in values) + "\n")
    write_lines(path, lines)
    return path


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    return stage_program(__doc__, "the last stage to apply", 1, write_output, argv)


if __name__ == "__main__":
    sys.exit(main())
