"""How far to trust a later stage's moves, measured on pictures that no stage was trained on.

    python deeppose_caffe_port/calibrate.py --work=DIR [--stage=2]

A stage that knows its training pictures too well moves joints too far on new ones. For each joint the factor in [0, 1] is taken by which its
moves must be scaled to end nearest to the truth on the held-out pictures (`held_out`), and goes into the weights of the last layer: a new
snapshot `..._calibrated_iter_N.caffemodel`, which any Caffe runs and which our programs prefer to the one it was made from. Ours; neither
the paper nor the original does it.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402

from common.errors import DataError  # noqa: E402
from deeppose_caffe_port.config import Config  # noqa: E402
from deeppose_caffe_port.stage_program import stage_program  # noqa: E402

FACTORS = np.linspace(0, 1, 21)


def best_factors(moves: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """(J,) factors of FACTORS: for each joint the one that leaves the smallest mean distance |error - factor x move|.

    moves: (N,J,2) proposed; errors: (N,J,2) truth - start, nan where unlabelled. A joint that is labelled nowhere gets 0.
    """
    left = np.linalg.norm(errors[None] - FACTORS[:, None, None, None] * moves, axis=-1)
    known = np.isfinite(left).all(0)
    means = np.where(known, left, 0).sum(1) / np.maximum(known.sum(0), 1)
    return FACTORS[means.argmin(0)]


def calibrate(config: Config, stage: int = 2) -> Path:
    """Write the calibrated snapshot of a stage from its last plain one; returns its path. DataError without held-out pictures."""
    from deeppose_caffe_port.cascade import load_regressor, pick_snapshot
    from deeppose_caffe_port.prepare import guesses

    if not config.held_out:
        raise DataError(
            "calibration needs pictures that no stage was trained on; prepare the project with --held_out=0.1"
        )
    weights = pick_snapshot(config, stage, calibrated=False)
    regressor = load_regressor(config, stage, weights)
    names, truth, guess, unseen = guesses(config, stage - 1)
    factors = _factors(config, regressor, [n for n, u in zip(names, unseen) if u], truth[unseen], guess[unseen])
    rows = np.repeat(factors, 2) if config.joint_outputs else factors.mean()
    regressor.scale_outputs(rows)
    path = weights.with_name(weights.name.replace("_iter_", "_calibrated_iter_"))
    regressor.net.cpu().save(path)
    shown = zip(config.skeleton.joints, factors) if config.joint_outputs else [("all", float(rows))]
    print("moves are scaled by " + ", ".join(f"{joint} {factor:.2f}" for joint, factor in shown))
    return path


def _factors(config: Config, regressor, names: list[str], truth: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """Best factors on these pictures, in steps of a few pictures."""
    from tqdm import tqdm

    from deeppose_caffe_port.cascade import moves
    from deeppose_caffe_port.images import read_picture

    step, parts = 2 * config.batch_size, []
    for start in tqdm(range(0, len(names), step), desc="calibrate", dynamic_ncols=True):
        part = slice(start, start + step)
        pictures = [read_picture(config.project / name, config.allow_16bit) for name in names[part]]
        parts.append(moves(config, regressor, pictures, guess[part]))
    found, errors = np.concatenate(parts), truth - guess
    if config.joint_outputs:
        return best_factors(found, errors)
    return best_factors(found.reshape(-1, 1, 2), errors.reshape(-1, 1, 2))


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    return stage_program(__doc__, "the stage to calibrate", 2, calibrate, argv)


if __name__ == "__main__":
    sys.exit(main())
