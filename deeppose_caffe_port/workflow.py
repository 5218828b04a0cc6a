"""The original's workflow, step by step or all of it.

    python deeppose_caffe_port/workflow.py run_all                                  # K2HPD in data/K2HPD, 12 steps
    python deeppose_caffe_port/workflow.py run_all --dataset=lspet --data_dir=DIR --preset=cpu
    python deeppose_caffe_port/workflow.py get_stage2 --work=DIR                    # one step of a project folder

Steps: import_data (any data set of common -> the project folder), get_stage1 (mirror, shuffle), get_k2hpd (labels), create_lmdb (and mean),
train, accuracy, output (stage 1 on its training pictures), get_stage2 (patches), get_k2hpd2, create_lmdb2, train2, calibrate2 (with
--held_out), accuracy2; with --stages=3 then output2, get_stage3, get_k2hpd3, create_lmdb3, train3, calibrate3, accuracy3, and so on: a
third stage learns what the second leaves over.
`run_all --start_at=STEP` goes on in the middle. A repeated step replaces what it made before. Exit code 2 on bad input.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.errors import DataError  # noqa: E402
from common.runs.first.process import exit_code  # noqa: E402
from common.runs.first.settings import add_arguments  # noqa: E402
from deeppose_caffe_port.config import Config, settle  # noqa: E402


def parse_args(argv=None) -> tuple[argparse.Namespace, dict]:
    """(step and its own options, project settings given)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", help="run_all, or a step")
    parser.add_argument(
        "--start_at", default="import_data", help="run_all: the first step to do (default: import_data)"
    )
    parser.add_argument(
        "--resume",
        choices=("none", "auto"),
        default="none",
        help="train steps: go on from our checkpoint (default: none)",
    )
    add_arguments(parser, Config)
    given = vars(parser.parse_args(argv))
    own = argparse.Namespace(**{name: given.pop(name) for name in ("step", "start_at", "resume")})
    return own, given


def create_lmdb(config: Config, stage: int = 1) -> None:
    """LMDBs of both lists and the mean of the training pictures; the test mean too, as the original has it, though nothing reads it."""
    from common.weights.caffe_text import read_text
    from deeppose_caffe_port.lmdb_tools import compute_image_mean, convert_imageset
    from deeppose_caffe_port.prepare import read_list

    folder = config.model_folder(stage)
    layer = read_text(folder / "deploy.prototxt", "NetParameter").message.layer[0]
    side = layer.input_param.shape[0].dim[-1]
    for kind in ("train", "test"):
        names, values = read_list(folder / f"{kind}_images.txt", config.outputs(stage))
        if not names:
            raise DataError(
                f"{folder / f'{kind}_images.txt'} is empty: no LMDB can be made of it; lower --holdout or --patch_rate"
            )
        target = folder / f"{kind}_data_lmdb"
        convert_imageset(names, values, target, side, root=config.project, skip_unreadable=config.mode == "compat",
                         allow_16bit=config.allow_16bit, workers=config.workers, replace=True)  # fmt: skip
        compute_image_mean(target, folder / f"{kind}_mean.binaryproto")


def train(config: Config, stage: int, resume: str) -> None:
    """Train a stage as train.py does."""
    from deeppose_caffe_port import train as program

    own, _ = program.parse_args([f"--stage={stage}", f"--resume={resume}"])
    program.train(own, config)


def accuracy(config: Config, stage: int) -> None:
    """Score the test split with the stages up to this one."""
    from deeppose_caffe_port import val

    val.score(config, val.parse_args([])[0], stage)


def output(config: Config, stage: int) -> None:
    """Predictions up to a stage on the training list -> data/NAME/stageN/output.txt."""
    from deeppose_caffe_port.output import write_output

    write_output(config, stage)


def patches(config: Config, stage: int) -> None:
    """Patches to train a later stage on; of a third or further stage the prototxts too."""
    from deeppose_caffe_port import prepare
    from deeppose_caffe_port.config import store
    from deeppose_caffe_port.prototxts import write_project

    if stage > 2:
        write_project(config)
        store(config)
    prepare.get_stage2(config, stage)


def calibrate(config: Config, stage: int) -> None:
    """Scale a later stage's moves as its held-out pictures ask for."""
    from deeppose_caffe_port import calibrate as program

    program.calibrate(config, stage)


def actions(config: Config, resume: str = "none") -> dict[str, Callable[[], object]]:
    """Name -> action of every step, in order. Those of stage 3 and later are called as those of stage 2, with their number."""
    from deeppose_caffe_port import import_data, prepare

    steps: dict[str, Callable[[], object]] = {
        "import_data": partial(import_data.import_data, config), "get_stage1": partial(prepare.get_stage1, config),
        "get_k2hpd": partial(prepare.get_k2hpd, config), "create_lmdb": partial(create_lmdb, config),
        "train": partial(train, config, 1, resume), "accuracy": partial(accuracy, config, 1),
    }  # fmt: skip
    for n in range(2, config.stages + 1):
        steps |= {
            f"output{n - 1 if n > 2 else ''}": partial(output, config, n - 1), f"get_stage{n}": partial(patches, config, n),
            f"get_k2hpd{n}": partial(prepare.get_k2hpd2, config, n), f"create_lmdb{n}": partial(create_lmdb, config, n),
            f"train{n}": partial(train, config, n, resume), f"calibrate{n}": partial(calibrate, config, n),
            f"accuracy{n}": partial(accuracy, config, n),
        }  # fmt: skip
        if not config.held_out:
            del steps[f"calibrate{n}"]
    return steps


def run_steps(steps: dict[str, Callable[[], object]], first: str, last: str | None = None) -> None:
    """Run from one step to another (default: the last one). DataError for a step that there is not."""
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


def ready(config: Config, stage: int) -> None:
    """Prepare what a stage trains on, where it is not there yet. DataMissing when there is no data to prepare it from."""
    if not (config.project / "project.json").is_file():
        from deeppose_caffe_port.import_data import load_split

        load_split(config, 0)
    if not 1 <= stage <= config.stages:
        raise DataError(f"there is no stage {stage}: {config.project} has {config.stages}; --stages N sets how many")
    if (config.model_folder(stage) / "train_data_lmdb" / "data.mdb").is_file():
        return
    first = {1: "import_data", 2: "output"}.get(stage, f"output{stage - 1}")
    run_steps(actions(config), first, f"create_lmdb{stage if stage > 1 else ''}")


def main(argv=None) -> int:
    """Exit code 0, 1 when training diverged, 2 with a message on bad input."""
    own, given = parse_args(argv)
    first, last = (own.start_at, None) if own.step == "run_all" else (own.step, own.step)
    return exit_code(lambda: run_steps(actions(settle(given, fresh=first == "import_data"), own.resume), first, last))


if __name__ == "__main__":
    sys.exit(main())
