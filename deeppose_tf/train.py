"""Train or resume DeepPose stage 1.

    python deeppose_tf/train.py --preset lsp_alexnet_scratch                  # the original's examples; examples/*.sh call these
    python deeppose_tf/train.py --preset lsp_alexnet_imagenet --max_iter 200
    python deeppose_tf/train.py --preset cpu --train_csv_fn A.csv --test_csv_fn B.csv --val_csv_fn '' --o_dir out/mine
    python deeppose_tf/train.py --preset cpu --o_dir out/mine --resume          # from the newest checkpoint

Settings come from the preset, then `--config FILE`, then the command line; deeppose_tf/config.py lists them. On synthetic data the smoke
preset's sizes are laid over an example's settings unless `--no-smoke` is given. Checkpoints: O_DIR/{last,best,checkpoint-STEP}.npz, log:
O_DIR/log.jsonl and TensorBoard. Crops come from annotated joints, in testing too. Exit code 2 on bad input.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # this folder's modules must not shadow others

from common.errors import DataError  # noqa: E402
from common.runs.first.process import exit_code  # noqa: E402
from common.runs.first.settings import add_arguments, read_settings_file, resolve  # noqa: E402
from deeppose_tf.config import PRESETS, SMOKE, SUMMARY_STEP, Config, is_synthetic  # noqa: E402
from deeppose_tf.prepare import ready_csv  # noqa: E402


def parse_args(argv=None) -> Config:
    """The run's settings; DataError or ValueError on unknown keys or values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="none", help="settings to start from (default: none)")
    parser.add_argument("--config", help="file of `key = value` lines")
    parser.add_argument(
        "--smoke", action=argparse.BooleanOptionalAction, default=True, help="small sizes on synthetic data (default)"
    )
    add_arguments(parser, Config)
    given = vars(parser.parse_args(argv))
    preset, file, smoke = given.pop("preset"), given.pop("config"), given.pop("smoke")
    layers = [PRESETS[preset], read_settings_file(file) if file else {}, given]
    config = resolve(Config, *layers)
    if config.resume:  # an example's first weights and counter are for its start
        layers[0] = {name: value for name, value in layers[0].items() if name not in ("snapshot", "reset_iter_counter")}
        config = resolve(Config, *layers)
    data_ready(config)
    if smoke and is_synthetic(config.train_csv_fn) and preset not in ("none", "cpu", "smoke"):
        print("SYNTHETIC data: the smoke preset's sizes replace this example's; --no-smoke keeps them")
        freeze = {} if config.fix_conv_iter else {"fix_conv_iter": 0}  # only where the example freezes the convolutions
        config = resolve(Config, layers[0], SMOKE, freeze, *layers[1:])
    config.check()
    return config


def data_ready(config: Config) -> None:
    """DataError before any framework or picture is read when weights or data are missing; CSVs are made where the releases are there."""
    from deeppose_tf.weight_files import find_weights, missing_text

    problems = []
    if config.snapshot and find_weights(config.snapshot) is None:
        problems.append(missing_text(Path(config.snapshot)))
    try:
        for path in filter(None, (config.train_csv_fn, config.test_csv_fn, config.val_csv_fn)):
            ready_csv(Path(path), config.dataset_name)
    except DataError as error:
        problems.append(str(error))
    if problems:
        command = f"python {ROOT / 'deeppose_tf/prepare.py'} {config.dataset_name} --synthetic"
        stand_in = f"One command makes synthetic stand-ins for data and weights: {command}"
        raise DataError("\n".join([*problems, *([stand_in] if config.snapshot or len(problems) > 1 else [])]))


class Loop:
    """DT's order of events at every step: score, save, stop, update, log."""

    def __init__(self, run, log):
        self.run, self.log, self.config, self.saved = run, log, run.config, time.monotonic()

    def __call__(self) -> None:
        """From the run's step to the last."""
        config, run = self.config, self.run
        while True:
            step = run.loop_step
            done = step >= config.max_iter
            last = step + 1 == config.max_iter if config.mode == "compat" else done
            if run.is_main and (step % config.test_step == 0 or last or step == config.fix_conv_iter):
                self.score()
            if run.is_main and step > 1 and step % config.snapshot_step == 0:
                print(f"checkpoint: {run.save_numbered()}")
                self.saved = time.monotonic()
            if done:
                break
            self.update()
        if run.is_main and config.mode == "correct":
            run.save()

    def update(self) -> None:
        """One update with its console line, summaries, and a checkpoint now and then."""
        config, run, began = self.config, self.run, time.perf_counter()
        summary = run.loop_step % SUMMARY_STEP == 0
        last = run.loop_step + 1 == config.max_iter
        shown = run.loop_step % config.log_step == 0 or last
        result = run.update(summary)
        seconds = time.perf_counter() - began
        if not run.is_main:
            return
        if shown:
            speed = config.batch_size // seconds
            print(
                f"Step {run.counter}: train/pose_loss = {result['loss']:.2f} ({seconds:.3f} s, {speed:.2f} im/s)",
                flush=True,
            )
        if summary:
            self.summarise(result)
        if time.monotonic() - self.saved > 60 * config.save_minutes:
            run.save()
            self.saved = time.monotonic()

    def summarise(self, result: dict) -> None:
        """DT's entries of every fiftieth step."""
        from deeppose_tf.engine import weight_decay_term
        from deeppose_tf.model import get_weights

        decay = weight_decay_term({**get_weights(self.run.model), **self.run.unused})
        norms = {f"grad_norms/grad_norms/{name}_0": float(value) for name, value in result["grad_norms"].items()}
        self.log.scalars(
            self.run.counter, loss=result["loss"], loss_with_decay=result["loss"] + decay, **self.run.rates(), **norms
        )

    def score(self) -> None:
        """Evaluation blocks of test and val; the test's mPCP chooses the best checkpoint."""
        from deeppose_tf.data import Crops
        from deeppose_tf.report import block, evaluate, scalars

        run, config, metric = self.run, self.config, None
        crops = Crops.for_testing(config.mode, config.test_extension)
        for tag, split in run.tests.items():
            found, _ = evaluate(run.forward, split.persons, split.pose_set, crops, min(config.batch_size, 128))
            print(block(run.counter, tag, found), flush=True)
            self.log.scalars(run.counter, **scalars(tag, found))
            metric = found.pcp().total if tag == "test" else metric
        if run.store.best_metric is None or metric > run.store.best_metric:
            run.save(metric)
            self.saved = time.monotonic()


def train(config: Config) -> Path:
    """Run to the last step and return the folder of the checkpoints. DataError on bad input, FloatingPointError on a diverged loss."""
    from contextlib import nullcontext

    from common.runs.runlog import RunLog
    from deeppose_tf.run import Run

    run = Run(config)
    resumed = run.counter if config.resume and run.counter else None
    with RunLog(run.directory, config=asdict(config), resume_step=resumed) if run.is_main else nullcontext() as log:
        if run.is_main:
            dump_parameters(config, run.directory)
        try:
            Loop(run, log)()
        except KeyboardInterrupt:
            if run.is_main:
                run.save()
            print(f"stopped after step {run.counter}; go on with --resume")
    return run.directory


def dump_parameters(config: Config, directory: Path) -> None:
    """DT's `params.dump_*.txt`."""
    from pprint import pformat

    (directory / f"params.dump_{time.strftime('%y%m%d_%H%M%S')}.txt").write_text(pformat(asdict(config)) + "\n")


def main(argv=None) -> int:
    """Exit code 0, 2 with a message on bad input, 1 when the loss diverged."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    remedy = "The last good state is kept: lower the learning rates and go on with --resume"
    return exit_code(lambda: train(parse_args(argv)), "checkpoints are in {}", remedy)


if __name__ == "__main__":
    sys.exit(main())
