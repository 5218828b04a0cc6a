"""Train with a Caffe solver file, as `caffe train` does, or a stage of the project.

    python deeppose_caffe_port/train.py                                         # stage 1 on data/K2HPD; prepares the data first if need be
    python deeppose_caffe_port/train.py --stage=2 --dataset=lspet --data_dir=DIR
    python deeppose_caffe_port/train.py -solver solver.prototxt [-snapshot S.solverstate | -weights W.caffemodel] [-gpu 0]
    torchrun --nproc_per_node=4 deeppose_caffe_port/train.py -solver solver.prototxt

Paths in a solver file start at the working directory (Caffe), or at --folder. `--resume=auto` goes on from our own checkpoint bit for bit;
`-snapshot` from Caffe's, whose data starts again at record 0. Ctrl-C writes a snapshot and stops. Exit code 2 on bad input.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.errors import DataError  # noqa: E402
from common.runs.first.process import exit_code  # noqa: E402
from common.runs.first.settings import add_arguments  # noqa: E402
from deeppose_caffe_port.config import Config, settle  # noqa: E402
from deeppose_caffe_port.machine import join, leave, processes  # noqa: E402

EFFECTS = ("stop", "snapshot", "none")
_OWN = (
    "solver",
    "folder",
    "snapshot",
    "weights",
    "gpu",
    "stage",
    "resume",
    "euclidean",
    "masked",
    "sigint_effect",
    "sighup_effect",
    "save_minutes",
    "log_dir",
)


def parse_args(argv=None) -> tuple[argparse.Namespace, dict]:
    """(own options, project settings given). argparse exits with code 2 on an unknown option."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--solver", "-solver", help="solver prototxt (default: the one of --stage in the project folder)")
    add(
        "--folder",
        help="where relative paths of the solver file start (default: the working directory; of a project, its folder)",
    )
    add("--snapshot", "-snapshot", help="Caffe .solverstate to go on from")
    add("--weights", "-weights", help="Caffe .caffemodel files to start from, comma-separated")
    add("--gpu", "-gpu", help="CUDA device number, like --device cuda:N")
    add("--stage", type=int, default=1, help="stage of the project, when no --solver is given (default: 1)")
    add(
        "--resume",
        choices=("none", "auto"),
        default="none",
        help="auto: go on from our newest checkpoint, if any (default: none)",
    )
    add(
        "--euclidean",
        choices=("modified", "stock"),
        default="modified",
        help="EuclideanLoss over all elements (this project) or over the batch",
    )
    add(
        "--masked",
        action="store_true",
        help="NaN labels mean unlabelled: left out of the loss (always on for data sets with such joints)",
    )
    add(
        "--sigint_effect",
        "-sigint_effect",
        choices=EFFECTS,
        default="stop",
        help="what Ctrl-C does (default: snapshot and stop)",
    )
    add(
        "--sighup_effect",
        "-sighup_effect",
        choices=EFFECTS,
        default="snapshot",
        help="what SIGHUP does (default: snapshot)",
    )
    add("--save_minutes", type=float, default=10.0, help="write our checkpoint every so many minutes too (default: 10)")
    add("--log_dir", help="run log, text and numbers (default: beside the snapshots)")
    add_arguments(parser, Config)
    given = vars(parser.parse_args(argv))
    own = argparse.Namespace(**{name: given.pop(name) for name in _OWN})
    return own, given


class Log:
    """Caffe's log lines with glog's prefix on standard error and in train.log, and the numbers in a RunLog."""

    def __init__(self, folder: Path, config: dict, resume_step: int | None):
        from common.runs.runlog import RunLog

        self.run = RunLog(folder, config=config, resume_step=resume_step)
        self.file = open(folder / "train.log", "w" if resume_step is None else "a", encoding="utf-8")

    def line(self, text: str) -> None:
        """One line."""
        now = time.time()
        stamp = time.strftime("%m%d %H:%M:%S", time.localtime(now)) + f".{int(now % 1 * 1e6):06d}"
        line = f"I{stamp} {os.getpid():5d} solver.py:1] {text}"
        print(line, file=sys.stderr, flush=True)
        self.file.write(line + "\n")
        self.file.flush()

    def values(self, iteration: int, values: dict) -> None:
        """Numbers of one iteration."""
        self.run.scalars(iteration, **values)

    def close(self) -> None:
        """Close both."""
        self.file.close()
        self.run.close()


def project_solver(own: argparse.Namespace, config: Config) -> tuple[Path, Path, bool]:
    """(solver file, folder, whether labels can be NaN) of a stage of the project, prepared if need be."""
    from deeppose_caffe_port.workflow import ready

    ready(config, own.stage)
    masked = own.masked or " nan" in (config.model_folder(own.stage) / "train_images.txt").read_text(encoding="utf-8")
    return config.model_folder(own.stage) / "solver.prototxt", config.project, masked


def previous_weights(own: argparse.Namespace, config: Config) -> str:
    """With `warm_start`, the snapshot of the stage before, where a later stage of the project is trained; else nothing."""
    from deeppose_caffe_port.cascade import pick_snapshot

    if own.solver or own.stage == 1 or not config.warm_start:
        return ""
    return str(pick_snapshot(config, own.stage - 1, calibrated=False))


def train(own: argparse.Namespace, config: Config) -> Path:
    """Train to the end; returns the folder of the snapshots. DataError on bad input, FloatingPointError when it diverges."""
    if own.solver:
        path, folder, masked = Path(own.solver), Path(own.folder or "."), own.masked
        if not path.is_file():
            raise DataError(f"solver file {path} does not exist")
    else:
        path, folder, masked = project_solver(own, config)
    from deeppose_caffe_port import engine
    from deeppose_caffe_port.augment import Augment
    from deeppose_caffe_port.checkpoint import open_store, restore, state_of
    from deeppose_caffe_port.solver import Options, Solver

    rank, world = processes()
    device = join(f"cuda:{own.gpu}" if own.gpu else config.device)
    aspect = config.size[0] / config.size[1] if own.stage == 1 else 1.0
    augment = Augment(config.rotate, config.zoom, aspect) if not own.solver else Augment()
    options = Options(device, own.euclidean, masked, config.amp, config.compile, augment, rank, world)
    solver = Solver(path, folder, options, announce=lambda line: None)
    solver.check_prefix()
    store = open_store(solver)
    state = store.begin("auto" if own.resume == "auto" and not own.snapshot else None)
    if state:
        restore(solver, state, store.directory, config.mode)
    elif own.snapshot:
        solver.restore(own.snapshot)
    if not (own.solver or state or own.snapshot):
        # made from the snapshots that this training replaces; they would be preferred to the new ones
        for stale in (solver.folder / solver.prefix).parent.glob("*_calibrated_iter_*.caffemodel"):
            stale.unlink(missing_ok=True)  # several processes come here
    for weights in filter(
        None, (own.weights or previous_weights(own, config) or ",".join(solver.param.weights)).split(",")
    ):
        if not (state or own.snapshot):
            missing = solver.net.load(weights)
            print(
                f"{weights}: {'all weights' if not missing else 'initial values kept in ' + ', '.join(missing)}",
                file=sys.stderr,
            )
    log = None
    if solver.is_main:
        settings = {
            "solver": str(path),
            "folder": str(folder.absolute()),
            "device": str(solver.device),
            "mode": config.mode,
            **{**vars(options), "augment": vars(augment)},
        }
        log_folder = Path(own.log_dir) if own.log_dir else (solver.folder / solver.prefix).parent / "log"
        log = Log(log_folder, settings, solver.iteration if state or own.snapshot else None)
        solver.announce, solver.on_values = log.line, log.values
        note_synthetic(folder, log)
    try:
        engine.train_steps(solver, signals=engine.Signals(own.sigint_effect, own.sighup_effect),
                           on_step=Saver(solver, lambda: store.save(state_of(solver, config.mode)), own.save_minutes))  # fmt: skip
    finally:
        if log:
            log.close()
        leave()
    return (solver.folder / solver.prefix).parent


def note_synthetic(folder: Path, log: Log) -> None:
    """Say it when the pictures were drawn."""
    if (folder / "SYNTHETIC").exists():
        log.line("SYNTHETIC data: figures from it say nothing about real pictures")


class Saver:
    """Our checkpoint at every snapshot, and every so many minutes."""

    def __init__(self, solver, save, minutes: float):
        self.solver, self.save, self.seconds, self.last = solver, save, 60 * minutes, time.monotonic()

    def __call__(self, solver) -> None:
        """After an iteration."""
        p, it = solver.param, solver.iteration
        due = (p.snapshot and it % p.snapshot == 0) or it == p.max_iter or time.monotonic() - self.last > self.seconds
        if due and solver.is_main:
            self.save()
            self.last = time.monotonic()


def main(argv=None) -> int:
    """Exit code 0, 1 when training diverged, 2 with a message on bad input."""
    own, given = parse_args(argv)
    return exit_code(lambda: train(own, settle(given)), "snapshots are in {}")


if __name__ == "__main__":
    sys.exit(main())
