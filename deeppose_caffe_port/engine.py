"""One training: `Trainer` around Caffe's solver, and what a resumed run goes on from."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO

import numpy as np
import torch

from common.runs.checkpoints import CheckpointStore, check_compatible
from common.runs.process import TorchProcess
from common.weights.pickles import read_torch
from deeppose_caffe_port.config import Config
from deeppose_caffe_port.solver import Feeds, Solver
from deeppose_caffe_port.weight_files import first_weights, pick_snapshot

# what must be the same when a run goes on
_SAME = ("fingerprint", "type", "euclidean", "masked", "rotate", "zoom", "mode")


class Trainer:
    """Training of a solver file (`config.solver`), or of a stage of the project, on what its nets' data layers name
    (prepare.py makes those LMDBs of a PoseSet). A batch is what iter_size passes read."""

    def __init__(self, config: Config, process: TorchProcess):
        self.config, self.process = config, process
        path = Path(config.solver) if config.solver else config.model_folder(config.stage) / "solver.prototxt"
        folder = Path(config.folder or ".") if config.solver else config.project
        self.solver = Solver(path, folder, config, process, process.device, self._log)
        self.position, self.total_steps = self.solver.position, self.solver.param.max_iter
        self.folder = Path(config.out) if config.solver and config.out else self.solver.snapshot_folder / "log"
        self.settings = {
            **{**asdict(config), "solver": str(path), "folder": str(folder.absolute()), "device": str(process.device)},
            **{"fingerprint": self.solver.net.fingerprint(), "type": self.solver.updater.kind},
        }
        self.about: dict = {"synthetic": (folder / "SYNTHETIC").exists()}
        if not config.solver:
            self.about |= {"skeleton": config.skeleton, "dataset": config.dataset, "split": config.splits[0]}
        self._file: IO | None = None
        self._tested = -1

    def store(self) -> CheckpointStore:
        """Our checkpoints, with all that Caffe's lack: `last`, `previous`, `best` by the test net's first figure."""
        losses = [n for net in self.solver.test_nets for n in net.outputs if n in net.loss_weights]
        return CheckpointStore(
            self.folder, lambda path, state: torch.save(state, path), read_torch, suffix=".pt", keep=1, unit="step",
            mode="min" if losses else "max", every=self.solver.param.snapshot, writer=self.process.is_main,
        )  # fmt: skip

    def _log(self, text: str) -> None:
        """A line as Caffe's glog writes it, on standard error and in train.log."""
        now = time.time()
        stamp = time.strftime("%m%d %H:%M:%S", time.localtime(now)) + f".{int(now % 1 * 1e6):06d}"
        line = f"I{stamp} {os.getpid():5d} solver.py:1] {text}"
        print(line, file=sys.stderr, flush=True)
        if self._file:
            self._file.write(line + "\n")
            self._file.flush()

    def start(self) -> None:
        """First weights: fillers, Caffe's state, `.caffemodel` files, or stage 1's."""
        config, solver = self.config, self.solver
        self._begin("w")
        if config.snapshot:
            solver.restore(config.snapshot)
            files = ""
        elif config.warm_start and config.stage > 1 and not (config.solver or config.weights):
            files = str(pick_snapshot(config, config.stage - 1))
        else:
            files = config.weights or ",".join(solver.param.weights)
        for file in filter(None, files.split(",")):
            solver.say(f"Finetuning from {file}")
            solver.say(f"{file}: {first_weights(solver.net, Path(file), None if config.solver else config.joints)}")
        self._announce()

    def _begin(self, mode: str) -> None:
        if self.process.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self.folder / "train.log", mode, encoding="utf-8")

    def _announce(self) -> None:
        solver, p, it = self.solver, self.solver.param, self.position.step
        if self.about["synthetic"]:
            solver.say("SYNTHETIC data: figures from it say nothing about real pictures")
        for line in ("Starting Optimization", f"Solving {solver.net.name}", f"Learning Rate Policy: {p.lr_policy}"):
            solver.say(line)
        if self._due(p.test_interval) and (it > 0 or p.test_initialization) and self._tested != it < self.total_steps:
            self._test()

    def state(self) -> dict:
        """All that the next iterations depend on. FloatingPointError naming a layer whose weights are not finite."""
        solver = self.solver
        solver.check_finite()
        return {
            "model": {name: tensor.detach().clone() for name, tensor in solver.net.state_dict().items()},
            "optimizer": [h.detach().clone() for h in solver.updater.history],
            "schedule": solver.rate.current_step, "caffe_random": [solver.random.seed, *solver.random.get_state()],
            "positions": solver.positions(), "smoothed": [float(v) for v in solver.losses], "tested": self._tested,
        }  # fmt: skip

    def restore(self, state: dict) -> None:
        """Undo `state`; DataError when it belongs to another net, solver type or mode."""
        solver = self.solver
        check_compatible(state["config"], self.settings, _SAME)
        solver.net.load_state_dict({name: torch.from_numpy(a) for name, a in state["model"].items()})
        solver.updater.load_history([np.asarray(h) for h in state["optimizer"]], "checkpoint")
        solver.rate.current_step, self._tested = state["schedule"], state["tested"]
        solver.random.seed = state["caffe_random"][0]
        solver.random.set_state(state["caffe_random"][1:])
        solver.losses.extend(torch.tensor(v) for v in state["smoothed"])
        solver.set_positions(state["positions"])
        self._begin("a")
        self._announce()

    def batches(self) -> Iterator[list[Feeds]]:
        """What the next iterations read, without end."""
        while True:
            yield [self.solver.feeds() for _ in range(self.solver.param.iter_size)]

    def step(self, batch: list[Feeds]) -> dict:
        """One iteration."""
        return self.solver.iterate(batch)

    def snapshot(self) -> None:
        """Caffe's snapshot, where it is due."""
        if self._due(self.solver.param.snapshot):
            self.solver.snapshot()

    def _due(self, every: int) -> bool:
        return every > 0 and self.position.step % every == 0

    def _test(self) -> dict[str, float]:
        self._tested = self.position.step
        return self.solver.test()

    def validate(self) -> dict[str, float] | None:
        """Figures of the test nets. None behind the last iteration: `finish` tests after Caffe's last training loss."""
        return self._test() if self.position.step < self.total_steps else None

    def finish(self) -> dict[str, float] | None:
        """What Caffe does behind the last iteration, or where it was stopped: snapshot, a last loss, a last test."""
        solver, p, figures = self.solver, self.solver.param, None
        if p.snapshot_after_train and not self._due(p.snapshot):
            solver.snapshot()
        if self.position.step < self.total_steps:
            solver.say("Optimization stopped early.")
        else:
            if self._due(p.display):
                solver.closing_loss()
            if self._due(p.test_interval):
                figures = self._test()
            solver.say("Optimization Done.")
        solver.say("Optimization Done.")  # Caffe says it twice: the solver, then the tool
        return figures

    def close(self) -> None:
        """End the reading threads and the log."""
        self.solver.close()
        if self._file:
            self._file.close()
