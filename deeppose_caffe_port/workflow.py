"""The original's workflow, step by step or all of it.

    python deeppose_caffe_port/workflow.py run_all                                  # K2HPD in data/K2HPD, 12 steps
    python deeppose_caffe_port/workflow.py run_all --dataset=lspet --data_root=DIR --preset=cpu
    python deeppose_caffe_port/workflow.py get_stage2 --out=DIR                     # one step of a project folder

Steps: import_data (any data set of common -> the project folder), get_stage1 (mirror, shuffle), get_k2hpd (labels),
create_lmdb (and mean), train, accuracy, output (stage 1 on its training pictures), get_stage2 (patches), get_k2hpd2,
create_lmdb2, train2, accuracy2. `run_all --start_at=STEP` goes on in the middle.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.errors import DataError
from common.runs.options import Parser, given_of
from common.runs.process import exit_code
from deeppose_caffe_port import prepare, train, val
from deeppose_caffe_port.config import Config, parse, settle


def accuracy(config: Config, stage: int) -> None:
    """Score the test split, if there is one, with the stages up to this one."""
    if config.splits[1] == "none":
        return
    options = given_of(config, "snapshot1", "snapshot2", "device", "amp", "batch_size", "workers")  # type: ignore[arg-type]
    known = {"weights": config.project, "data_root": config.data_folder, "stage": stage, **options}
    val.run(*val.parse_args([f"--{name}={value}" for name, value in known.items()]))


STEPS: dict[str, Callable[[Config], object]] = {
    **prepare.STEPS[1],
    "train": lambda config: train.train(train.prepared(replace(config, stage=1))),
    "accuracy": partial(accuracy, stage=1),
    **prepare.STEPS[2],
    "train2": lambda config: train.train(train.prepared(replace(config, stage=2))),
    "accuracy2": partial(accuracy, stage=2),
}


def run(config: Config, step: str, start_at: str) -> Path:
    """One step, or all of them from one on; returns the project folder. DataError for a step that there is not."""
    first = start_at if step == "run_all" else step
    if first not in STEPS:
        raise DataError(f"there is no step {first}; steps are run_all, {', '.join(STEPS)}")
    names = list(STEPS)
    wanted = names[names.index(first) :] if step == "run_all" else [first]
    prepare.run_steps({name: STEPS[name] for name in wanted}, config)
    return config.project


def main(argv=None) -> int:
    """Exit code 0, 1 when training diverged, 2 with a message on bad input, 130 when stopped."""
    parser = Parser(__doc__)
    parser.add_argument("step", help="run_all, or a step", metavar="STEP")
    parser.option("start_at", default="import_data", metavar="STEP", text="run_all: the first step", group="training")
    given, own = parse(parser, argv, but=("solver", "folder", "stage", "snapshot", "weights"))
    fresh = (own["start_at"] if own["step"] == "run_all" else own["step"]) == "import_data"
    return exit_code(lambda: run(settle(given, fresh), own["step"], own["start_at"]), "the project is in {}")


if __name__ == "__main__":
    sys.exit(main())
