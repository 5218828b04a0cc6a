"""Train with a Caffe solver file, as `caffe train` does, or a stage of the project.

    python deeppose_caffe_port/train.py                         # stage 1 on data/K2HPD; prepares the data if need be
    python deeppose_caffe_port/train.py --stage=2 --dataset=lspet --data_root=DIR
    python deeppose_caffe_port/train.py -solver solver.prototxt [-snapshot S.solverstate | -weights W.caffemodel]
    torchrun --nproc_per_node=4 deeppose_caffe_port/train.py -solver solver.prototxt      # several machines: its options

Paths in a solver file start at the working directory (Caffe), or at --folder. `--resume` goes on from our own
checkpoint bit for bit; `-snapshot` from Caffe's, whose data starts again at record 0.
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder's data.py must not shadow other modules

from common.errors import DataError
from common.runs.options import Parser
from common.runs.process import TorchProcess, device_numbers, exit_code, launch
from common.weights.caffe_text import read_text
from deeppose_caffe_port.config import Config, parse, settle
from deeppose_caffe_port.prepare import load_split, ready


def prepared(config: Config) -> Config:
    """The settings, once everything is there that is trained on: of a project what is missing is made."""
    for name in ("weights", "snapshot"):  # before anything is prepared
        if (given := getattr(config, name)) and not Path(given).exists():
            raise DataError(f"--{name} {given} does not exist; give a file that does")
    if config.device:
        import torch

        device_numbers(config.device, torch.cuda.device_count())
    path = Path(config.solver or config.model_folder(config.stage) / "solver.prototxt")
    if not config.solver:
        if not (config.project / "project.json").is_file():
            load_split(config, 0)
        else:
            print(f"{config.project} is prepared: its records are trained on; for other data give another --out")
        ready(config, config.stage)
        config.masked |= " nan" in (config.model_folder(config.stage) / "train_images.txt").read_text(encoding="utf-8")
    param = read_text(path, "SolverParameter").message
    if config.gpu or (config.device is None and param.device_id):
        config.device = f"cuda:{config.gpu or param.device_id}"
    elif config.device is None and param.solver_mode == 0:
        config.device = "cpu"
    return config


def train(config: Config) -> Path:
    """Train to the end; returns the folder of the snapshots."""
    import torch

    from common.runs.session import Session
    from deeppose_caffe_port.engine import Trainer

    process = TorchProcess(torch, config.device, config.threads)
    trainer = Trainer(config, process)
    param = trainer.solver.param
    session = Session(
        trainer.folder, trainer.position, trainer.total_steps, process, trainer.store(), settings=trainer.settings,
        about=trainer.about, valid_every=param.test_interval, save_minutes=config.save_minutes,
        patience=config.patience, log_every=param.display or 20,
    )  # fmt: skip
    with session, closing(trainer):
        state = session.begin(config.resume)
        trainer.restore(state) if state else trainer.start()
        for batch in session.track(trainer.batches()):
            session.log(trainer.step(batch))
            trainer.snapshot()
            if session.validation_due:
                session.validated(trainer.validate())
            if session.save_due:
                session.save(trainer.state())
        session.validated(trainer.finish())
    return trainer.solver.snapshot_folder


def main(argv=None) -> int:
    """Exit code 0, 1 when training diverged, 2 with a message on bad input, 130 when stopped."""
    given, _ = parse(Parser(__doc__), argv)

    def work() -> Path:
        config = prepared(settle(given))
        import torch

        launch(torch, config.device, __file__)
        return train(config)

    remedy = "The last good state is kept: lower --lr (base_lr), set --clip, and go on with --resume"
    return exit_code(work, "snapshots are in {}", remedy)


if __name__ == "__main__":
    sys.exit(main())
