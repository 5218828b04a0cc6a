"""Train or resume a network from a pose_cfg.yaml.

    cd deepercut_tf/models/mpii/train && python ../../../train.py           # the original's way: settings in the working directory
    python deepercut_tf/train.py --config deepercut_tf/models/smoke/pose_cfg.yaml --set dataset=DIR
    python deepercut_tf/train.py --config FILE --resume                     # heads, optimiser, iteration and data order go on
    python deepercut_tf/train.py --config FILE --distribute mirrored        # all GPUs of a machine; multiworker: TF_CONFIG

Snapshots (SNAPSHOT_DIR/PREFIX-N, TensorFlow 1 format) and the resume state lie in `snapshot_dir`. Ctrl-C and SIGTERM end the running step
and save the state. Exit code 2 on bad input, 1 when training diverged, 130 when stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # this folder's data.py and test.py must not shadow other modules

from common.runs.first.process import exit_code  # noqa: E402
from deepercut_tf.options import settings_of, settings_parser  # noqa: E402


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = settings_parser(__doc__, limit="stop after N iterations (a dry run)")
    parser.add_argument(
        "--resume", nargs="?", const="auto", help="go on from the newest state in snapshot_dir, or from this file"
    )
    parser.add_argument(
        "--distribute",
        choices=("none", "mirrored", "multiworker"),
        default="none",
        help="tf.distribute strategy (default: none)",
    )
    return parser.parse_args(argv)


def train(config, item_set, resume: str | None = None, limit: int | None = None, distribute: str = "none") -> Path:
    """Run to the last iteration (at most `limit` of them) and return the snapshot folder. DataError, or FloatingPointError on a loss that is
    not finite.
    """
    from common.runs.runlog import RunLog
    from deepercut_tf.config import output_path
    from deepercut_tf.machine import Interrupts, make_strategy
    from deepercut_tf.run import Run

    strategy, share = make_strategy(distribute)
    run = Run(config, item_set, strategy, share)
    found = run.begin(resume)
    if item_set.synthetic:
        print(f"SYNTHETIC data in {item_set.root}: figures from it say nothing about photographs")
    writes = share[0] == 0
    log = (
        RunLog(output_path(config.log_dir), config=asdict(config), resume_step=run.iteration if found else None)
        if writes
        else nullcontext()
    )
    with log as opened, Interrupts() as interrupts:
        iterate(run, opened, limit, interrupts)
    return run.directory


def check_files(config) -> None:
    """Before TensorFlow is imported: DataError for initial weights or pairwise statistics that are not there."""
    from deepercut_tf.config import house_path
    from deepercut_tf.pair_statistics import load_statistics
    from deepercut_tf.weight_files import check_weights

    if config.init_weights:
        check_weights(config.init_weights)
    if config.pairwise_predict:
        load_statistics(
            house_path(config.pairwise_stats_fn),
            config.num_joints,
            config.global_scale,
            config.tensorflow_pairwise_order,
        )


def iterate(run, log, limit: int | None, interrupts=None) -> None:
    """The remaining iterations, with log, pictures and snapshots. KeyboardInterrupt when `interrupts` ask to stop, after the step is saved."""
    from common.runs.runlog import check_finite
    from deepercut_tf.run import last_iteration, learning_rate

    config = run.config
    last = last_iteration(config) if limit is None else min(last_iteration(config), run.iteration + limit - 1)
    if run.iteration > last:
        print(f"nothing to train: iteration {run.iteration - 1} of {last} is done")
        return
    totals, started = [], time.monotonic()
    for batch in run.batches():
        iteration, rate = run.iteration, learning_rate(config, run.iteration)
        losses = {name: float(value) for name, value in run.trainer.step(batch, rate, iteration + 1).items()}
        check_finite("loss", losses["total_loss"], iteration)
        run.draw, run.iteration = first_number(batch["draw"]), iteration + 1
        totals.append(losses["total_loss"])
        if log:
            log.scalars(iteration, **losses, lr=rate)
            if config.image_iters and iteration % config.image_iters == 0:
                show_maps(run, log, batch, iteration)
        if log and (iteration % config.display_iters == 0 or iteration == last):
            speed = (time.monotonic() - started) / len(totals)
            left = timedelta(seconds=round(speed * (last - iteration)))
            print(
                f"iteration: {iteration} loss: {sum(totals) / len(totals):.4f} lr: {rate} ({speed:.2f} s each, {left} left)",
                flush=True,
            )
            totals, started = [], time.monotonic()
        if (iteration > 0 and iteration % config.save_iters == 0) or iteration == last:
            run.save(snapshot=True)
        if iteration == last:
            return
        if interrupts and interrupts.asked:
            run.save(snapshot=False)
            raise KeyboardInterrupt(f"stopped after iteration {iteration}; go on with --resume")


def first_number(value) -> int:
    """A batch's draw number, of the last replica when there are several."""
    parts = getattr(value, "values", (value,))
    return max(int(part) for part in parts)


def show_maps(run, log, batch: dict, iteration: int) -> None:
    """The first image with its summed score targets and with the network's scores, in TensorBoard."""
    import numpy as np

    from deepercut_tf.pictures import score_picture

    batch = {name: getattr(value, "values", (value,))[0] for name, value in batch.items()}
    image = np.asarray(batch["inputs"])[0]
    logits = np.clip(np.asarray(run.model(batch["inputs"][:1], training=False)["part_pred"])[0], -50, 50)
    log.image("score targets", score_picture(image, np.asarray(batch["part_score_targets"])[0].max(-1)), iteration)
    log.image("scores", score_picture(image, (1 / (1 + np.exp(-logits))).max(-1)), iteration)


def main(argv=None) -> int:
    """Exit code 0, 2 with a message on bad input, 1 when training diverged, 130 when it was stopped."""
    args = parse_args(argv)

    def work() -> Path:
        from deepercut_tf.items import load_items

        item_set, config = load_items(settings_of(args))
        check_files(config)
        return train(config, item_set, args.resume, args.limit, args.distribute).absolute()

    remedy = "The last good state is kept: lower the rates in multi_step, set clip, and go on with --resume"
    try:
        return exit_code(work, "snapshots are in {}", remedy)
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
