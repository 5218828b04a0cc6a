"""Train or resume a network from a pose_cfg.yaml.

    cd deepercut_tf/models/mpii/train && python ../../../train.py    # the original's way: all in this folder
    python deepercut_tf/train.py --preset smoke --data_root data/LSP   # shipped settings; output/deepercut_tf/smoke
    python deepercut_tf/train.py --config FILE --resume                # heads, optimiser and place in the data go on
    python deepercut_tf/train.py --config FILE --device cuda:0,1       # several GPUs
    TF_CONFIG='{"cluster": {"worker": [...]}, "task": {"type": "worker", "index": 0}}' python ...   # several machines

The run's folder gets the resume state (last.npz, best.npz), the log, and snapshots PREFIX-N, which the original loads.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder's data.py must not shadow other modules

from common import datasets
from common.errors import DataError
from common.runs.process import exit_code
from common.runs.session import Session
from deepercut_tf.config import Config, house_path, settings_of, settings_parser
from deepercut_tf.items import ItemSet, load_items, load_pose_set
from deepercut_tf.weight_files import check_weights, open_store


def parse_args(argv=None) -> Config:
    """The settings of a training."""
    return settings_of(settings_parser(__doc__).parse_args(argv), automatic=True)


def prepare(config: Config) -> tuple[Config, ItemSet]:
    """The images with their settings; DataError for a file that training will lack, before TensorFlow starts."""
    from deepercut_tf.pairwise_stats import load_statistics

    if not config.bucket:
        os.environ.setdefault("TF_CUDNN_USE_AUTOTUNE", "0")  # each picture's size would be tuned for; so the original
    if (backend := os.environ.get("KERAS_BACKEND", "tensorflow")) != "tensorflow":
        raise DataError(f"training needs KERAS_BACKEND=tensorflow; {backend} can predict only")
    config.valid_split = datasets.valid_split(config.dataset, config.data_path, config.valid_split)
    pose_set, config = load_items(config)
    if config.valid_split != "none":
        load_pose_set(config, config.valid_split)  # a wrong one is said now, not after an hour
    if config.weights:
        check_weights(config.weights)
    if config.pairwise_predict:
        load_statistics(house_path(config.pairwise_stats_fn), config.num_joints)
    return config, pose_set


def train(config: Config, pose_set: ItemSet, process) -> Path:
    """Run to the last iteration; returns the run's folder. Raises DataError, FloatingPointError or Stopped."""
    from deepercut_tf.engine import Trainer

    trainer = Trainer(config, pose_set, process)
    folder = Path(config.out or ".")
    folder.mkdir(parents=True, exist_ok=True)  # what cannot be written should fail now, not at the first snapshot
    options: dict[str, Any] = {"settings": asdict(config), "about": trainer.about, "valid_every": config.save_iters}
    options |= {"save_minutes": config.save_minutes, "patience": config.patience, "log_every": config.display_iters}
    store = open_store(folder, process.is_main)
    session = Session(folder, trainer.position, trainer.total_steps, process, store, **options)
    with session:
        state = session.begin(config.resume)
        trainer.restore(state) if state else trainer.start()
        for batch in session.track(trainer.batches()):
            session.log(trainer.step(batch))
            if session.validation_due:
                session.validated(trainer.validate())
            if session.save_due:
                session.save(trainer.state())
            if trainer.snapshot_due:
                trainer.snapshot(folder)
    pose_set.say_unreadable()
    return folder


def main(argv=None) -> int:
    """Exit code as the module's docstring says."""

    def work() -> Path:
        config, pose_set = prepare(parse_args(argv))
        from deepercut_tf.engine import Machine

        return train(config, pose_set, Machine(config.device, config.threads)).absolute()

    remedy = "The last good state is kept: lower the rates in multi_step, set clip, and go on with --resume"
    return exit_code(work, "the run is in {}", remedy)


if __name__ == "__main__":
    sys.exit(main())
