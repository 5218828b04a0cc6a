"""Train or resume a pose machine.

python lpm_torch/train.py --model=lpm                                                         # data/PennAction
python lpm_torch/train.py --model=lpm --dataset=lsp --data_root=DIR --preset=cpu --train_split=1-4000
python lpm_torch/train.py --model=lpm --dataset=json --data_root=DIR                          # own data, own joints
python lpm_torch/train.py --config=lpm_torch/configs/lpm_train_penn.ini --resume
python lpm_torch/train.py --model=lpm --device=cuda:0,1,2,3  # one process a GPU, as torchrun does:
torchrun --nproc_per_node=4 lpm_torch/train.py --model=lpm  # several machines: torchrun's options
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder's data.py must not shadow other modules

from common.poses import PoseSet
from common.runs.options import Parser, training_settings
from common.runs.process import TorchProcess, exit_code, launch
from common.runs.session import Session
from lpm_torch.config import PRESETS, Config, data_folder, dataset_name, load_pose_set, weights_path


def parse_args(argv=None) -> Config:
    """The run's settings; DataError on unknown keys or values."""
    parser = Parser(__doc__)
    parser.ignore(dict.fromkeys(("experiment", "host", "log_dir", "log_freq"), "the log lies in the run's folder"))
    parser.ignore({"debug": "predict.py draws", "pck_r": "val.py scores"})
    folder = lambda c: data_folder(dataset_name(c.dataset), c.data_root)  # noqa: E731
    return training_settings(parser, Config, PRESETS, argv, folder=folder, standard="none").checked()


def train(config: Config, pose_set: PoseSet, process: TorchProcess) -> Path:
    """Run to the last epoch; returns the run's folder. FloatingPointError when training diverged."""
    from lpm_torch.data import say_unread
    from lpm_torch.engine import Trainer
    from lpm_torch.weight_files import open_store

    trainer = Trainer(config, pose_set, process)
    session = Session(
        config.folder, trainer.position, trainer.total_steps, process, open_store(config.folder, process),
        settings=asdict(trainer.config), about=pose_set.about,
        valid_every=trainer.valid_every, save_minutes=config.save_minutes, accumulate=config.accumulate,
        patience=config.patience,
    )  # fmt: skip
    # also, as MobilePose's --checkpoint_name, a file in the model's folder
    named = config.resume not in (None, "auto")
    place = (config.resume, config.model, config.dataset, config.model_dir)
    with session:
        state = session.begin(weights_path(*place) if named else config.resume)
        trainer.restore(state) if state else trainer.start()
        for batch in session.track(trainer.batches()):
            session.log(trainer.step(batch))
            if session.validation_due:
                session.validated(trainer.validate())
            if session.save_due:
                session.save(trainer.state())
    say_unread(pose_set, trainer.unread)
    return config.folder


def main(argv=None) -> int:
    """Exit code 0, 2 with a message on bad input, 1 when training diverged, 130 when it was stopped."""

    def work() -> Path:
        config = parse_args(argv)
        # before PyTorch is imported, so that missing data is said at once
        pose_set = load_pose_set(config.dataset, config.data_root, config.train_split).limit(config.limit)
        import torch

        launch(torch, config.device, __file__)
        return train(config, pose_set, TorchProcess(torch, config.device, config.threads))

    remedy = "The last good state is kept: lower --lr, set --clip, and go on with --resume"
    return exit_code(work, "the run is in {}", remedy)


if __name__ == "__main__":
    sys.exit(main())
