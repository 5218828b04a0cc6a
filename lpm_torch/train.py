"""Train or resume a pose machine.

    python lpm_torch/train.py --model=lpm                                              # data/PennAction
    python lpm_torch/train.py --model=cpm --dataset=LSP --data_dir=DIR --preset=paper  # MobilePose's settings
    python lpm_torch/train.py --model=lpm --dataset=LSP --data_dir=DIR --preset=cpu --train_split=1-4000
    python lpm_torch/train.py --config=lpm_torch/configs/lpm_train_penn.ini --resume=auto
    torchrun --nproc_per_node=4 lpm_torch/train.py --model=lpm --gpus=0,1,2,3          # one process a GPU; several nodes: torchrun's options

Settings come from the preset, then `--config FILE`, then the command line; lpm_torch/config.py lists them. On a folder marked SYNTHETIC the
preset is `smoke` unless one is given. Checkpoints: MODEL_DIR/MODEL/DATASET/{last,best}.pth.tar; exit code 2 on bad input.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # this folder's data.py and test.py must not shadow other modules

from common.runs.first.process import exit_code  # noqa: E402
from common.runs.first.session import Watch  # noqa: E402
from common.runs.first.settings import add_arguments, read_settings_file, resolve  # noqa: E402
from lpm_torch.config import PRESETS, Config, data_root  # noqa: E402
from lpm_torch.machine import Machine, launch_all_gpus  # noqa: E402


def parse_args(argv=None) -> Config:
    """The run's settings; DataError or ValueError on unknown keys or values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--preset",
        choices=("auto", *PRESETS),
        default="auto",
        help="auto: smoke on synthetic data, else none (default: auto)",
    )
    parser.add_argument("--config", help="file of `key = value` lines")
    for ignored in ("experiment", "host"):
        parser.add_argument(
            f"--{ignored}",
            default=argparse.SUPPRESS,
            help="accepted as in the original, without effect (its log server is gone)",
        )
    add_arguments(parser, Config)
    given = vars(parser.parse_args(argv))
    preset, file = given.pop("preset"), given.pop("config")
    for ignored in ("experiment", "host"):
        if given.pop(ignored, None) is not None:
            print(f"--{ignored} has no effect here: logs go to --log_dir", file=sys.stderr)
    layers = [read_settings_file(file) if file else {}, given]
    for ignored in ("experiment", "host"):
        layers[0].pop(ignored, None)
    if preset == "auto":
        wanted = resolve(Config, *layers)
        preset = "smoke" if (data_root(wanted.data_dir, wanted.dataset) / "SYNTHETIC").exists() else "none"
    return resolve(Config, PRESETS[preset], *layers)


def train(config: Config) -> Path:
    """Run to the last epoch and return the checkpoint directory. DataError on bad input, FloatingPointError on a loss that is not finite."""
    import torch

    from common.runs.runlog import RunLog
    from lpm_torch.checkpoint import find_checkpoint, joint_order_of, load_weights
    from lpm_torch.run import Run

    machine = Machine(config)
    config = replace(config, amp=machine.native_amp(config.amp))
    run = Run(config, machine)
    if config.init_weight:
        first = find_checkpoint(config.init_weight, run.directory)
        load_weights(run.model, first, averaged=True, wanted=asdict(config))
        if joint_order_of(first) != "lpm14":
            # MP's recipe does so too: possible, but the last layers must be learned anew
            print(
                f"{first} has the joint order {joint_order_of(first)}: its maps have to be relearned; `convert.py --reorder` spares that",
                file=sys.stderr,
            )
    resume = (
        find_checkpoint(config.checkpoint_name, run.directory)
        if config.checkpoint_name
        else config.resume == "auto" and "auto"
    )
    found = run.begin(resume or None)
    log_dir = ROOT / "logs" if config.log_dir == "logs" else Path(config.log_dir)
    note_synthetic(run.pose_set)
    if run.epoch >= config.max_epochs:
        print(f"nothing to train: the checkpoint has {run.epoch} epochs, --max_epochs is {config.max_epochs}")
    start = {"config": asdict(config), "resume_step": run.step if found else None}
    with RunLog(log_dir / config.model / config.dataset, **start) if machine.is_main else nullcontext() as log:
        train_epochs(run, log)
    if machine.world > 1:
        torch.distributed.destroy_process_group()
    return run.directory


def train_epochs(run, log) -> None:
    """The remaining epochs of a run, each followed by validation and a checkpoint."""
    import torch

    from lpm_torch.engine import train_one_epoch

    config, network, watch = run.config, run.network(), LPMWatch(run, log)
    while run.epoch < config.max_epochs:
        run.start_epoch()
        values = train_one_epoch(
            network, run.loader, run.optimizer, run.scheduler, run.machine.device, config,
            scaler=run.scaler, ema=run.ema, first=run.batch, on_step=watch.step,
        )  # fmt: skip
        loss = run.machine.mean(values["loss"])
        run.epoch, run.batch = run.epoch + 1, 0
        if log:
            metric = validate(run, log) if config.valid_split != "none" else None
            log.scalars(
                run.step,
                **{"Epoch Train Loss": loss, "Epoch Train Accuracy": watch.mean_accuracy(), "epoch": run.epoch},
            )
            watch.save(metric)
        if run.machine.world > 1:
            torch.distributed.barrier()


class LPMWatch(Watch):
    """After every batch: the accuracy on the belief maps, and debug pictures every `log_freq` batches."""

    def accuracy(self, out, batch: dict) -> float:
        """Percent of the batch's joints within `pck_r`."""
        from lpm_torch.engine import accuracy

        return accuracy(out, batch, self.run.config)

    def pictures(self, out, batch: dict) -> None:
        """With --debug: truth beside prediction, as files and in the log."""
        run, config = self.run, self.run.config
        if config.debug and (run.step - 1) % config.log_freq == 0:
            from lpm_torch.debug import write_debug

            self.log.image(
                "truth and prediction", write_debug(out, batch, config, f"epoch_{run.epoch + 1}", run.step), run.step
            )


def note_synthetic(pose_set) -> None:
    """Say it when the pictures were drawn."""
    if pose_set.synthetic:
        print(f"SYNTHETIC data in {pose_set.root}: figures from it say nothing about photographs")


def validate(run, log) -> float:
    """PCK of the validation split with the averaged weights, if any; the figure that chooses the best checkpoint."""
    from lpm_torch.sources import load_pose_set
    from lpm_torch.val import averaged_weights, group_line, predict_pose_set, valid_accuracy

    config, losses = run.config, []
    pose_set = load_pose_set(config.dataset, config.data_dir, config.valid_split)
    with averaged_weights(run.model, run.ema):
        predictions, pose_set = predict_pose_set(run.model, config, pose_set, run.machine.device, losses=losses)
    result, loss = valid_accuracy(predictions, pose_set, config), sum(losses) / len(losses)
    lines = [
        f"[epoch {run.epoch}]",
        f"Epoch Valid Loss: {loss:.6g}, Epoch Valid Accuracy: {result.total:.2f}",
        group_line(result),
    ]
    print("\n".join(lines))
    log.text("valid", "\n".join(lines), run.step)
    log.scalars(run.step, **{"Epoch Valid Loss": loss, "Epoch Valid Accuracy": result.total})
    return result.total


def main(argv=None) -> int:
    """Exit code 0, 2 with a message on bad input, 1 when training diverged."""

    def work() -> Path:
        config = parse_args(argv)
        data_ready(config)
        launch_all_gpus(config, __file__)
        return train(config)

    return exit_code(
        work,
        "checkpoints are in {}",
        "The last good state is kept: lower --lr, set --clip, and go on with --resume=auto",
    )


def data_ready(config: Config) -> None:
    """Fail before PyTorch is imported when the data is not there."""
    from lpm_torch.sources import load_pose_set

    load_pose_set(config.dataset, config.data_dir, config.train_split)


if __name__ == "__main__":
    sys.exit(main())
