"""A training run: network, optimiser, data, and the state from which it goes on as if it had never stopped."""

from __future__ import annotations

from dataclasses import asdict

import keras
import numpy as np

from common.runs.first.checkpoints import check_compatible, collect_random_state, make_state
from deepercut_tf import data
from deepercut_tf.config import Config, house_path, output_path, require
from deepercut_tf.engine import Trainer
from deepercut_tf.items import ItemSet
from deepercut_tf.model import build_model, load_variables, named_variables
from deepercut_tf.pair_statistics import load_statistics
from deepercut_tf.weight_files import drop_old_snapshots, find_snapshot, open_store, read_weights, write_weights

# What a resumed run must share with its beginning.
RUN_FIELDS = (
    "mode", "net_type", "width", "num_joints", "location_refinement", "pairwise_predict", "intermediate_supervision",
    "intermediate_supervision_layer", "optimizer", "global_scale", "mirror", "rotate", "crop", "seed", "batch_size",
)  # fmt: skip


def learning_rate(config: Config, iteration: int) -> float:
    """Rate of an iteration (from 0): that of the first entry of multi_step whose bound is not below it; adam_lr for Adam if set; warmed up."""
    if config.optimizer == "adam" and config.adam_lr is not None:
        rate = config.adam_lr
    else:
        rate = next((rate for rate, bound in config.multi_step if iteration <= bound), config.multi_step[-1][0])
    return float(rate) * min(1.0, (iteration + 1) / config.warmup if config.warmup else 1.0)


def last_iteration(config: Config) -> int:
    """The last bound of multi_step; iterations 0 to it are run."""
    return int(config.multi_step[-1][1])


class Run:
    """Everything of a training run that a state restores. `strategy`: a tf.distribute strategy, `share` (k, n) this process's batches."""

    def __init__(self, config: Config, item_set: ItemSet, strategy=None, share: tuple[int, int] = (0, 1)):
        require(config, "net_type", "multi_step", "pos_dist_thresh", "display_iters", "save_iters", why="training")
        keras.utils.set_random_seed(config.seed)
        self.config, self.item_set, self.strategy, self.share = config, item_set, strategy, share
        self.statistics = None
        if config.pairwise_predict:
            path = house_path(config.pairwise_stats_fn)
            self.statistics = load_statistics(
                path, config.num_joints, config.global_scale, config.tensorflow_pairwise_order
            )
        if strategy is None:
            self.model = build_model(config, intermediate=True, amp=config.amp)
        else:
            with strategy.scope():
                self.model = build_model(config, intermediate=True, amp=config.amp)
        self.iteration = self.draw = 0
        spec = (
            None
            if strategy is None
            else {name: part for name, part in self.batches().element_spec.items() if name != "draw"}
        )
        self.trainer = Trainer(self.model, config, strategy, spec)
        self.directory = output_path(config.snapshot_dir)
        self.directory.mkdir(
            parents=True, exist_ok=True
        )  # a folder that cannot be written should fail now, not at the first snapshot
        self.store = open_store(self.directory, writer=share[0] == 0)

    def begin(self, resume: str | None) -> bool:
        """Start anew (None), or go on from the newest state (`auto`) or a file; whether a state was found. DataError when it does not fit."""
        state = self.store.begin(resume)
        if state is None:
            self._initialise()
            return False
        check_compatible(state["config"], asdict(self.config), RUN_FIELDS)
        load_variables(self.model, state["model"], "the checkpoint")
        for name, slot in self.trainer.slots.items():
            slot.assign(state["optimizer"][name])
        self.iteration, self.draw = state["step"], state["draw"]
        return True

    def _initialise(self) -> None:
        """Weights from `init_weights`: the backbone's alone, as in the original, or with `init_heads` also the heads that fit."""
        if self.config.init_weights:
            path = find_snapshot(self.config.init_weights)
            values, _ = read_weights(path)
            names = load_variables(
                self.model, values, str(path), only_backbone=True, fitting_heads=self.config.init_heads
            )
            print(f"{len(names)} variables from {path}")

    def batches(self):
        """The pipeline from the next draw on: a tf.data.Dataset; distributed, one of a batch a replica."""
        table = self.statistics.table(self.config.num_joints) if self.statistics else None
        if self.strategy is None:
            return data.tf_dataset(self.item_set, self.config, table, self.draw)
        local = len(self.strategy.extended.worker_devices)
        base, workers = self.share[0] * local, self.share[1] * local

        def per_replica(context):
            # one pipeline a process gives its replicas' batches in turn
            parts = [
                data.tf_dataset(self.item_set, self.config, table, self.draw, share=(base + k, workers))
                for k in range(local)
            ]
            import tensorflow as tf

            return (
                tf.data.Dataset.choose_from_datasets(parts, tf.data.Dataset.range(local).repeat())
                if local > 1
                else parts[0]
            )

        return self.strategy.distribute_datasets_from_function(per_replica)

    def weights(self) -> dict[str, np.ndarray]:
        """The network's variables by the original's names."""
        return {name: keras.ops.convert_to_numpy(v) for name, v in named_variables(self.model).items()}

    def save(self, snapshot: bool) -> None:
        """Write the resume state, and a snapshot PREFIX-N of the last iteration for the original's and our programs (5 are kept).

        FloatingPointError, and the files of before stay, when a weight is not finite.
        """
        weights = self.weights()
        bad = [name for name, value in weights.items() if not np.isfinite(value).all()]
        if bad:
            raise FloatingPointError(f"weight {bad[0]} is not finite at iteration {self.iteration}: training diverged")
        if self.share[0]:
            return
        slots = {name: slot.numpy() for name, slot in self.trainer.slots.items()}
        self.store.save(
            make_state(
                epoch=0, batch=0, step=self.iteration, model=weights, optimizer=slots, schedule=None, config=asdict(self.config),
                random_state=collect_random_state(), draw=self.draw,
            )
        )  # fmt: skip
        if snapshot:
            path = self.directory / f"{self.config.snapshot_prefix}-{self.iteration - 1}"
            write_weights(
                path,
                weights,
                {
                    "config": asdict(self.config),
                    "skeleton": self.item_set.skeleton.name,
                    "synthetic": self.item_set.synthetic,
                },
            )
            drop_old_snapshots(self.directory, self.config.snapshot_prefix)
