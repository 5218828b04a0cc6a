"""Train or resume Simple Baselines.

    python simplebaseline_paddle/train.py --dataset mpii                            # the Paddle project's settings: ResNet-50, 384x384
    python simplebaseline_paddle/train.py --preset coco_256x192 --data_root DIR     # the published configurations: mpii_256x256 ...
    python simplebaseline_paddle/train.py --dataset lspet --data_root DIR --preset cpu --train_split 1-4000
    python simplebaseline_paddle/train.py --dataset mpii --resume auto
    python -m paddle.distributed.launch --nproc_per_node 4 simplebaseline_paddle/train.py ...     # one process a device

Settings come from the preset, then the command line; simplebaseline_paddle/config.py lists them. On a folder marked SYNTHETIC the preset is
`smoke` unless one is given. Checkpoints: MODEL_SAVE_DIR/simplebase-DATASET/{last,best}.pdparams; exit code 2 on bad input.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # this folder's data.py and test.py must not shadow other modules

from common.runs.first.process import exit_code  # noqa: E402
from common.runs.first.session import Watch  # noqa: E402
from simplebaseline_paddle.arguments import parse_config  # noqa: E402
from simplebaseline_paddle.config import Config  # noqa: E402


def parse_args(argv=None) -> Config:
    """The run's settings; ValueError on unknown keys or values."""
    return parse_config(
        argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter), argv
    )


def train(config: Config) -> Path:
    """Run to the last epoch and return the checkpoint directory. DataError on bad input, FloatingPointError on a loss that is not finite."""
    from common.runs.runlog import RunLog
    from simplebaseline_paddle.machine import Machine

    machine = Machine(config.use_gpu, config.threads)
    from simplebaseline_paddle.run import Run

    run = Run(config, machine)
    found = run.begin()
    if run.pose_set.synthetic:
        print(f"SYNTHETIC data in {run.pose_set.root}: figures from it say nothing about photographs")
    print(f"{len(run.dataset)} persons ({run.dataset.records.note}), {run.batches} batches an epoch")
    if run.epoch >= config.num_epochs:
        print(f"nothing to train: the checkpoint has {run.epoch} epochs, --num_epochs is {config.num_epochs}")
    start = {"config": asdict(config), "resume_step": run.step if found else None}
    with RunLog(run.directory / "log", **start) if machine.is_main else nullcontext() as log:
        train_epochs(run, log)
    return run.directory


def train_epochs(run, log) -> None:
    """The remaining epochs of a run, each followed by validation and a checkpoint."""
    from simplebaseline_paddle.engine import train_one_epoch

    config, network, watch = run.config, run.network(), BaselineWatch(run, log)
    while run.epoch < config.num_epochs:
        values = train_one_epoch(
            network, run.loader(), run.optimizer, config, scaler=run.scaler, ema=run.ema, first=run.batch, on_step=watch.step,
            progress=run.machine.is_main,
        )  # fmt: skip
        run.epoch, run.batch = run.epoch + 1, 0
        # every process scores its share
        metric = validate(run, log) if config.valid_split != "none" else None
        loss = run.machine.mean(values["loss"])
        if log:
            log.scalars(run.step, **{"Epoch Train Loss": loss, "epoch": run.epoch})
            print(f"[epoch {run.epoch}] loss {loss:.6g}, accuracy {watch.mean_accuracy():.3f}")
            watch.save(metric)


class BaselineWatch(Watch):
    """After every batch: the original's accuracy on the maps, and a picture of them every `picture_every` batches."""

    def accuracy(self, out, batch: dict) -> float:
        """Share of the batch's joints whose map peaks where the target does."""
        from simplebaseline_paddle.metrics import map_accuracy

        return map_accuracy(
            out.astype("float32").numpy(), batch["target"].numpy(), compat=self.run.config.mode == "compat"
        )[0]

    def pictures(self, out, batch: dict) -> None:
        """The batch's first images with their maps."""
        run = self.run
        if run.config.picture_every and run.step % run.config.picture_every == 0:
            from simplebaseline_paddle.pictures import heatmap_grid, save_grid

            grid = heatmap_grid(batch["image"].numpy()[:8], out.astype("float32").numpy()[:8])
            save_grid(run.directory / "visualization@train.jpg", grid)


def validate(run, log) -> float | None:
    """The validation split's main figure with the averaged weights, if any; it chooses the best checkpoint. None in all but the first process."""
    from common.evaluate import score
    from simplebaseline_paddle.records import records_for
    from simplebaseline_paddle.sources import load_pose_set
    from simplebaseline_paddle.val import PROTOCOL, averaged_weights, predict_records

    config = run.config
    pose_set = load_pose_set(config.dataset, config.data_root, config.valid_split)
    with averaged_weights(run.model, run.ema):
        predictions, kept = predict_records(run.model, config, pose_set, records_for(pose_set, config), run.machine)
    if log is None:
        return None
    name = PROTOCOL.get(pose_set.name)
    results = score(kept, predictions, [name] if name else None)
    name, result = next(iter(results.items()))
    print(f"[epoch {run.epoch}] {name} on {config.valid_split}: {result.total:.4g}")
    log.scalars(run.step, **{f"valid {name}": result.total})
    return result.total


def main(argv=None) -> int:
    """Exit code 0, 2 with a message on bad input, 1 when training diverged."""

    def work() -> Path:
        config = parse_args(argv)
        data_ready(config)
        return train(config)

    return exit_code(
        work, "checkpoints are in {}", "The last good state is kept: lower --lr, and go on with --resume auto"
    )


def data_ready(config: Config) -> None:
    """Fail before Paddle is imported when the data is not there."""
    from simplebaseline_paddle.sources import load_pose_set

    for split in (config.train_split, config.valid_split):
        if split != "none":
            load_pose_set(config.dataset, config.data_root, split)


if __name__ == "__main__":
    sys.exit(main())
