"""The original's workflow, step by step or all of it.

    python deeppose_caffe_port/workflow.py run_all                                  # K2HPD in data/K2HPD, 12 steps
    python deeppose_caffe_port/workflow.py run_all --dataset=lspet --data_root=DIR --preset=cpu
    python deeppose_caffe_port/workflow.py get_stage2 --out=DIR                     # one step of a project folder

Steps: import_data (any data set of common -> the project folder), get_stage1 (mirror, shuffle), get_k2hpd (labels), create_lmdb (and mean),
train, accuracy, output (stage 1 on its training pictures), get_stage2 (patches), get_k2hpd2, create_lmdb2, train2, calibrate2 (with
--held_out), accuracy2; with --stages=3 then output2, get_stage3, get_k2hpd3, create_lmdb3, train3, calibrate3, accuracy3, and so on.
`run_all --start_at=STEP` goes on in the middle. A repeated step replaces what it made before.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common.errors import DataError
from common.runs.options import Parser
from common.runs.process import exit_code
from deeppose_caffe_port.config import Config, parse, settle


def train(config: Config, stage: int) -> None:
    """Train a stage as train.py does; first the patches' prototxts where it is a third one."""
    from deeppose_caffe_port import train as programme

    programme.train(programme.prepared(replace(config, stage=stage)))


def accuracy(config: Config, stage: int) -> None:
    """Score the test split with the stages up to this one."""
    from deeppose_caffe_port import val

    words = [f"--weights={config.project}", f"--data_root={config.data_folder}", f"--stage={stage}"]
    for name in ("snapshot1", "snapshot2", "device", "amp", "batch_size", "workers"):
        words += [f"--{name}={getattr(config, name)}"] if getattr(config, name) is not None else []
    val.run(*val.parse_args(words))


def patches(config: Config, stage: int) -> None:
    """Patches to train a later stage on; of a third or further stage the prototxts too."""
    from deeppose_caffe_port import prepare
    from deeppose_caffe_port.config import store
    from deeppose_caffe_port.prototxts import write_project

    if stage > 2:
        write_project(config)
        store(config)
    prepare.get_stage2(config, stage)


def actions(config: Config) -> dict[str, Callable[[], object]]:
    """Name -> action of every step, in order. Those of stage 3 and later are called as those of stage 2, with their number."""
    from deeppose_caffe_port import prepare

    def late(name: str, stage: int) -> Callable[[], object]:
        def run() -> object:
            from deeppose_caffe_port import stages  # imports torch

            return getattr(stages, name)(config, stage)

        return run

    steps: dict[str, Callable[[], object]] = {
        "import_data": lambda: prepare.import_data(config), "get_stage1": lambda: prepare.get_stage1(config),
        "get_k2hpd": lambda: prepare.get_k2hpd(config), "create_lmdb": late("create_lmdb", 1),
        "train": lambda: train(config, 1), "accuracy": lambda: accuracy(config, 1),
    }  # fmt: skip
    for n in range(2, config.stages + 1):
        steps |= {
            f"output{n - 1 if n > 2 else ''}": late("output", n - 1), f"get_stage{n}": lambda n=n: patches(config, n),
            f"get_k2hpd{n}": lambda n=n: prepare.get_k2hpd2(config, n), f"create_lmdb{n}": late("create_lmdb", n),
            f"train{n}": lambda n=n: train(config, n), **({f"calibrate{n}": late("calibrate", n)} if config.held_out else {}),
            f"accuracy{n}": lambda n=n: accuracy(config, n),
        }  # fmt: skip
    return steps


def run_steps(config: Config, first: str, last: str | None = None) -> Path:
    """Run from one step to another (default: the last one); returns the project folder. DataError for a step that there is not."""
    steps = actions(config)
    names = list(steps)
    for name in filter(None, (first, last)):
        if name not in names:
            raise DataError(
                f"there is no step {name}; steps are {', '.join(names)} (--stages N for those of further stages)"
            )
    for name in names[names.index(first) : names.index(last or names[-1]) + 1]:
        began = time.monotonic()
        print(f"== {name}", flush=True)
        steps[name]()
        print(f"== {name}: {time.monotonic() - began:.1f} s", flush=True)
    return config.project


def ready(config: Config, stage: int) -> Config:
    """Prepare what a stage trains on, where it is not there yet. DataMissing when there is no data to prepare it from."""
    if not (config.project / "project.json").is_file():
        from deeppose_caffe_port.prepare import load_split

        load_split(config, 0)
    if not 1 <= stage <= config.stages:
        raise DataError(f"there is no stage {stage}: {config.project} has {config.stages}; --stages N sets how many")
    if not (config.model_folder(stage) / "train_data_lmdb" / "data.mdb").is_file():
        first = {1: "import_data", 2: "output"}.get(stage, f"output{stage - 1}")
        run_steps(config, first, f"create_lmdb{stage if stage > 1 else ''}")
    return config


def main(argv=None) -> int:
    """Exit code 0, 1 when training diverged, 2 with a message on bad input, 130 when stopped."""
    parser = Parser(__doc__)
    parser.source("step", "run_all, or a step", metavar="STEP")
    parser.option(
        "start_at", default="import_data", metavar="STEP", text="run_all: the first step to do", group="training"
    )
    given, own = parse(parser, argv, but=("solver", "folder", "stage", "snapshot", "weights"))
    first, last = (own["start_at"], None) if own["step"] == "run_all" else (own["step"], own["step"])
    return exit_code(
        lambda: run_steps(settle(given, fresh=first == "import_data"), first, last), "the project is in {}"
    )


if __name__ == "__main__":
    sys.exit(main())
