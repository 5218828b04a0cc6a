"""The original's workflow, step by step or all of it.

    python deeppose_caffe_port/workflow.py run_all                                  # K2HPD in data/K2HPD, 12 steps
    python deeppose_caffe_port/workflow.py run_all --dataset=lspet --data_root=DIR --preset=cpu
    python deeppose_caffe_port/workflow.py get_stage2 --out=DIR                     # one step of a project folder

Steps: import_data (any data set of common -> the project folder), get_stage1 (mirror, shuffle), get_k2hpd (labels),
create_lmdb (and mean), train, accuracy, output (stage 1 on its training pictures), get_stage2 (patches), get_k2hpd2,
create_lmdb2, train2, accuracy2; with --stages=3 then output2, get_stage3, get_k2hpd3, create_lmdb3, train3, accuracy3,
and so on. `run_all --start_at=STEP` goes on in the middle. A repeated step replaces what it made before.
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
from common.runs.options import Parser
from common.runs.process import exit_code
from deeppose_caffe_port import train as training
from deeppose_caffe_port import val
from deeppose_caffe_port.config import Config, parse, settle
from deeppose_caffe_port.prepare import load_split


def train(config: Config, stage: int) -> None:
    """Train a stage."""
    training.train(training.prepared(replace(config, stage=stage)))


def accuracy(config: Config, stage: int) -> None:
    """Score the test split with the stages up to this one."""
    words = [f"--weights={config.project}", f"--data_root={config.data_folder}", f"--stage={stage}"]
    for name in ("snapshot1", "snapshot2", "device", "amp", "batch_size", "workers"):
        words += [f"--{name}={getattr(config, name)}"] if getattr(config, name) is not None else []
    val.run(*val.parse_args(words))


def actions(config: Config) -> dict[str, Callable[[], object]]:
    """Name -> action of every step, in order."""
    from deeppose_caffe_port import stages

    steps: dict[str, Callable[[], object]] = {}
    for n in range(1, config.stages + 1):
        number = n if n > 1 else ""
        steps |= {**stages.preparation(config, n), f"train{number}": partial(train, config, n)}
        steps[f"accuracy{number}"] = partial(accuracy, config, n)
    return steps


def run(config: Config, step: str, start_at: str) -> Path:
    """One step, or all of them from one on; returns the project folder. DataError for a step that there is not."""
    first = start_at if step == "run_all" else step
    if first == "import_data":
        load_split(config, 0)  # what is missing is said before PyTorch is imported
    from deeppose_caffe_port.stages import run_steps

    steps = actions(config)
    if first not in steps:
        raise DataError(f"there is no step {first}; steps are {', '.join(steps)} (--stages N for further stages)")
    names = list(steps)
    run_steps({name: steps[name] for name in (names[names.index(first) :] if step == "run_all" else [first])})
    return config.project


def main(argv=None) -> int:
    """Exit code 0, 1 when training diverged, 2 with a message on bad input, 130 when stopped."""
    parser = Parser(__doc__)
    parser.source("step", "run_all, or a step", metavar="STEP")
    parser.option("start_at", default="import_data", metavar="STEP", text="run_all: the first step", group="training")
    given, own = parse(parser, argv, but=("solver", "folder", "stage", "snapshot", "weights"))
    fresh = (own["start_at"] if own["step"] == "run_all" else own["step"]) == "import_data"
    return exit_code(lambda: run(settle(given, fresh), own["step"], own["start_at"]), "the project is in {}")


if __name__ == "__main__":
    sys.exit(main())
