"""Train or resume DeepPose stage 1.

    python deeppose_tf/train.py --example mpii_alexnet_imagenet    # of the original; its small form on synthetic data
    python deeppose_tf/train.py --dataset lspet --data_root DIR --train_split 1-4000 --valid_split 4001-5000
    python deeppose_tf/train.py --train_csv_fn A.csv --test_csv_fn B.csv --out out/mine --resume --device cuda:0,1
    TF_CONFIG='{"cluster": {"worker": ["A:12", "B:12"]}, "task": {"type": "worker", "index": 0}}' \
        python deeppose_tf/train.py    # on machine A; index 1 on B

Crops come from annotated joints, in scoring too.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder's data.py must not shadow other modules

from common.errors import DataError
from common.poses import PoseSet
from common.runs.options import Parser, training_settings
from common.runs.process import exit_code
from common.runs.session import Session
from common.runs.shelf import run_folder
from deeppose_tf import weight_files
from deeppose_tf.config import EXAMPLES, HOUSE, NO_EFFECT, Config, presets
from deeppose_tf.csv_files import load_split

REMEDY = "The last good state is kept: lower the learning rates, and go on with --resume"


def parse_args(argv=None) -> Config:
    """The run's settings; DataError on unknown keys or values."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--example", choices=EXAMPLES, default=next(iter(EXAMPLES)))
    chosen, rest = first.parse_known_args(argv)
    parser = Parser(__doc__)
    parser.option("example", choices=tuple(EXAMPLES), text="the original's run that paper, cpu and smoke are forms of",
                  group="training")  # fmt: skip
    parser.ignore(NO_EFFECT)
    named = presets(chosen.example)
    return training_settings(parser, Config, named, rest, folder=lambda config: config.folder).checked()


def load_data(config: Config) -> PoseSet:
    """The training persons. DataError, before a framework is imported, for all data and weights that are missing."""
    problems: dict[str, None] = {}
    found = {}
    for part in ("train", "test", "val"):
        try:
            found[part] = load_split(config, part)
        except DataError as error:
            problems[str(error)] = None
    given = config.resume or config.weights  # of a run that goes on the first weights need not be there
    try:
        if given not in (None, "auto"):
            weight_files.find(given)
    except DataError as error:
        stand_in = f"python {Path(__file__).parent / 'prepare.py'} {config.dataset} --synthetic"
        problems[f"{error}\nOne command makes synthetic stand-ins for data and weights: {stand_in}"] = None
    if problems:
        raise DataError("\n".join(problems))
    if found["train"] is None:
        raise DataError("setting train_split: none; name the persons to train on")
    return found["train"]


def train(config: Config, pose_set: PoseSet, process) -> Path:
    """Run to the last step; the run's folder."""
    from deeppose_tf.engine import Trainer

    trainer = Trainer(config, pose_set, process)
    resume = config.resume if config.resume in (None, "auto") else weight_files.find(config.resume)
    folder = run_folder(HOUSE, config.run_name, config.out)
    store = weight_files.open_store(folder, config, process)
    session = Session(folder, trainer.position, trainer.total_steps, process, store, settings=asdict(config),
                      about=pose_set.about, save_minutes=config.save_minutes, patience=config.patience)  # fmt: skip
    with session:
        state = session.begin(resume)
        trainer.restore(state) if state else trainer.start()
        if not state and trainer.validation_due:  # the original scores step 0 too
            session.validated(trainer.validate())
            session.save(trainer.state())
        for batch in session.track(trainer.batches()):
            session.log(trainer.step(batch))
            if trainer.validation_due:
                session.validated(trainer.validate())
            if session.save_due:
                session.save(trainer.state())
    return folder


def run(config: Config) -> Path:
    """Data first, then the framework."""
    pose_set = load_data(config)
    from deeppose_tf.engine import TensorFlow

    return train(config, pose_set, TensorFlow(config))


def main(argv=None) -> int:
    """Exit code 0; 2 with a message on bad input, 1 when the loss diverged, 130 when it was stopped."""
    return exit_code(lambda: run(parse_args(argv)), "the run is in {}", REMEDY)


if __name__ == "__main__":
    sys.exit(main())
