"""Train or resume Simple Baselines.

    python simplebaseline_paddle/train.py --dataset mpii                         # the Paddle project's settings
    python simplebaseline_paddle/train.py --preset coco_256x192 --data_root DIR  # published ones: mpii_256x256 ...
    python simplebaseline_paddle/train.py --dataset lspet --data_root DIR --preset cpu --train_split 1-4000 --resume
    python -m paddle.distributed.launch --nproc_per_node 4 simplebaseline_paddle/train.py ...   # one process a device
    python -m paddle.distributed.launch --master HOST:PORT --nnodes 2 simplebaseline_paddle/train.py ... # a machine

Settings come from the preset, then --config FILE, then the command line; config.py has their sources.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder's data.py must not shadow other modules

from common.poses import PoseSet
from common.runs.options import Parser, training_settings
from common.runs.process import exit_code
from common.runs.session import Session
from common.runs.shelf import data_folder
from simplebaseline_paddle.config import DEAD, PRESETS, Config


def parse_args(argv=None) -> Config:
    """The run's settings; DataError on an unknown key or value."""
    parser = Parser(__doc__)
    parser.ignore(DEAD)
    place = {"folder": lambda config: data_folder(config.data_root, config.dataset)}
    return training_settings(parser, Config, PRESETS, argv, fixed=("box_threshold",), **place).checked()


def train(config: Config, pose_set: PoseSet, valid_set: PoseSet | None) -> Path:
    """Run to the last epoch; returns the run's folder. DataError on bad input, FloatingPointError when it diverges."""
    from simplebaseline_paddle.estimator import PaddleProcess

    process = PaddleProcess(config.device, config.threads)
    from simplebaseline_paddle.engine import Trainer
    from simplebaseline_paddle.weight_files import open_store

    trainer = Trainer(config, pose_set, process, valid_set)
    store, length = open_store(config.folder, process), trainer.position.epoch_length
    session = Session(
        config.folder, trainer.position, trainer.total_steps, process, store, settings=asdict(config),
        about=pose_set.about, valid_every=length if valid_set else 0, save_minutes=config.save_minutes,
        accumulate=config.accumulate, patience=config.patience,
    )  # fmt: skip
    with session:
        state = session.begin(config.resume)
        trainer.restore(state) if state else trainer.start()
        for batch in session.track(trainer.batches()):
            session.log(trainer.step(batch))
            if session.validation_due:
                session.validated(trainer.validate())
            if session.save_due:
                session.save(trainer.state())
        trainer.dataset.report()
    return config.folder


def main(argv=None) -> int:
    """Exit code 0, 2 with a message on bad input, 1 when training diverged, 130 when it was stopped."""

    def work() -> Path:
        config = parse_args(argv)
        # before Paddle is imported, so that missing data is said at once
        pose_set = config.load(config.train_split)
        valid_set = None if config.valid_split == "none" else config.load(config.valid_split)
        return train(config, pose_set, valid_set)

    return exit_code(work, "the run is in {}", "The last good state is kept: lower --lr, and go on with --resume")


if __name__ == "__main__":
    sys.exit(main())
