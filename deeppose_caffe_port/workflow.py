"""The original's workflow, step by step or all of it.

    python deeppose_caffe_port/workflow.py run_all                                  # K2HPD in data/K2HPD, 12 steps
    python deeppose_caffe_port/workflow.py run_all --dataset=lspet --data_dir=DIR --preset=cpu
    python deeppose_caffe_port/workflow.py get_stage2 --work=DIR                    # one step of a project folder

Steps: import_data (any data set of common -> the project folder), get_stage1 (mirror, shuffle), get_k2hpd (labels), create_lmdb (and mean),
train, accuracy, output (stage 1 on its training pictures), get_stage2 (patches), get_k2hpd2, create_lmdb2, train2, accuracy2.
`run_all --start_at=STEP` goes on in the middle. A repeated step replaces what it made before. Exit code 2 on bad input.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.poses import DataError  # noqa: E402
from common.settings import add_arguments  # noqa: E402
from deeppose_caffe_port.config import STEPS, Config, settle  # noqa: E402


def parse_args(argv=None) -> tuple[argparse.Namespace, dict]:
    """(step and its own options, project settings given)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("run_all", *STEPS), help="step, or all of them in order")
    parser.add_argument("--start_at", choices=STEPS, default=STEPS[0], help="run_all: the first step to do (default: import_data)")
    parser.add_argument("--resume", choices=("none", "auto"), default="none", help="train steps: go on from our checkpoint (default: none)")
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
    labels = 2 * len(config.skeleton) if stage == 1 else 2
    for kind in ("train", "test"):
        names, values = read_list(folder / f"{kind}_images.txt", labels)
        if not names:
            raise DataError(f"{folder / f'{kind}_images.txt'} is empty: no LMDB can be made of it; lower --holdout or --patch_rate")
        target = folder / f"{kind}_data_lmdb"
        convert_imageset(names, values, target, side, root=config.project, skip_unreadable=config.mode == "compat",
                         allow_16bit=config.allow_16bit, workers=config.workers, replace=True)  # fmt: skip
        compute_image_mean(target, folder / f"{kind}_mean.binaryproto")


def train(config: Config, stage: int, resume: str) -> None:
    """Train a stage as train.py does."""
    from deeppose_caffe_port import train as program

    own, _ = program.parse_args([f"--stage={stage}", f"--resume={resume}"])
    program.train(own, config)


def accuracy(config: Config, refine: bool) -> None:
    """Score the test split with stage 1, or with both."""
    from deeppose_caffe_port import val

    val.score(config, val.parse_args([])[0], refine)


def output(config: Config) -> None:
    """Stage 1's predictions on its training list -> data/NAME/stage1/output.txt (section 3.4)."""
    from deeppose_caffe_port.output import write_output

    write_output(config)


def run_step(step: str, config: Config, resume: str = "none") -> None:
    """One step."""
    from deeppose_caffe_port import import_data, prepare

    actions = {
        "import_data": lambda: import_data.import_data(config), "get_stage1": lambda: prepare.get_stage1(config),
        "get_k2hpd": lambda: prepare.get_k2hpd(config), "create_lmdb": lambda: create_lmdb(config), "train": lambda: train(config, 1, resume),
        "accuracy": lambda: accuracy(config, False), "output": lambda: output(config), "get_stage2": lambda: prepare.get_stage2(config),
        "get_k2hpd2": lambda: prepare.get_k2hpd2(config), "create_lmdb2": lambda: create_lmdb(config, 2),
        "train2": lambda: train(config, 2, resume), "accuracy2": lambda: accuracy(config, True),
    }  # fmt: skip
    began = time.monotonic()
    print(f"== {step}", flush=True)
    actions[step]()
    print(f"== {step}: {time.monotonic() - began:.1f} s", flush=True)


def ready(config: Config, stage: int) -> None:
    """Prepare what a stage trains on, where it is not there yet. DataMissing when there is no data to prepare it from."""
    if not (config.project / "project.json").is_file():
        from deeppose_caffe_port.import_data import load_split

        load_split(config, 0)
    steps = {1: STEPS[: STEPS.index("train")], 2: STEPS[STEPS.index("output") : STEPS.index("train2")]}[stage]
    if (config.model_folder(stage) / "train_data_lmdb" / "data.mdb").is_file():
        return
    for step in steps:
        run_step(step, config)


def main(argv=None) -> int:
    """Exit code 0, 1 when training diverged, 2 with a message on bad input."""
    own, given = parse_args(argv)
    steps = STEPS[STEPS.index(own.start_at) :] if own.step == "run_all" else (own.step,)
    try:
        config = settle(given, fresh=steps[0] == "import_data")
        for step in steps:
            run_step(step, config, own.resume)
    except (DataError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
