"""What the original's programs count and write, from its own maps: loss, decoded points, the arrays of test.py; the
authors' hits and maps."""

import json

import numpy as np
import pytest
import torch

from common.codecs import decode_maps, gaussian_maps
from common.metrics import counting, pck
from common.runs.checkpoints import CheckpointStore
from common.runs.process import Process
from common.runs.runlog import read_log
from common.runs.session import Position, Session
from common.skeletons import PENN13
from lpm_torch import test
from lpm_torch.data import CENTER_SIGMA
from lpm_torch.losses import sequence_loss
from tests.tolerance import close, rounding, stored

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def metrics(golden_arrays):
    return golden_arrays("metrics")


@pytest.fixture(scope="module")
def octave(golden_arrays):
    return golden_arrays("octave")


def test_loss(metrics):
    """With as many maps as labels, and with the first estimate before them. Positive numbers are added, in pairs."""
    maps, labels = torch.from_numpy(metrics["outputs"]), torch.from_numpy(metrics["labels"])
    for given, name in ((maps, "loss_5"), (torch.cat([maps[:, :1], maps], 1), "loss_6")):
        limit = rounding(float(metrics[name]), steps=np.log2(given.numel()))
        close(sequence_loss(given, labels).item(), metrics[name], limit, name)


def test_decoded_points(metrics):
    for name, maps in (("out", metrics["outputs"]), ("lab", metrics["labels"])):
        np.testing.assert_array_equal(decode_maps(maps[0])[0], metrics[f"preds_{name}_0"])


def test_arrays_of_the_original(metrics):
    """What its test.py writes of these maps: row and column, with the quarter cell, in float32."""
    size = 256  # pixels of its crop, fixed in that function
    for name, maps in (("gt", metrics["labels"]), ("pred", metrics["outputs"])):
        found = test.peaks(maps, size).reshape(metrics[f"fp_{name}"].shape)
        assert found.dtype == metrics[f"fp_{name}"].dtype
        close(found, metrics[f"fp_{name}"], rounding(metrics[f"fp_{name}"].max()), name)
    # clips joined, frame fastest, otherwise as given
    np.testing.assert_array_equal(metrics["vis"].reshape(-1, metrics["vis"].shape[-1]), metrics["fp_vis"])
    np.testing.assert_array_equal(metrics["box_in"].reshape(-1, 4), metrics["fp_box"])


def test_hits_of_the_authors_script(octave):
    """Joint by joint and frame by frame, by the box and by the torso; 2 stands for a joint that does not count."""
    label, predicted, box = (
        octave["off_in_label"].transpose(2, 1, 0),
        octave["off_in_pred"].transpose(2, 1, 0),
        octave["off_in_bbox"],
    )
    sizes = (
        np.maximum(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]),
        pck.official_penn_torso(label[..., :2], predicted, PENN13),
    )
    for variant, size in enumerate(sizes):
        hits = counting.within(counting.distances(label[..., :2], predicted), size[:, None], 0.2)
        np.testing.assert_array_equal(np.where(label[..., 2] == 1, hits, 2), octave[f"off_hits{variant}"])


def test_mean_loss_of_an_epoch(golden_dir, metrics, tmp_path):
    """The original's running average after its inputs, as the loss that is logged when an epoch of training is
    validated."""
    inputs = json.loads((golden_dir / "lpm_torch/fixture.json").read_text())["metrics"]["running_avg_inputs"]
    position = Position(epoch_length=len(inputs))
    store = CheckpointStore(tmp_path, lambda path, state: path.write_text("state"), lambda path: {}, suffix=".txt")
    with Session(tmp_path, position, len(inputs), Process(), store, settings={}, about={}) as session:
        session.begin(None)
        for loss in session.track(inputs):
            position.advance()
            session.log({"loss": loss, "lr": 0.0})
        session.validated({"accuracy": 0.0})
    found = [entry["mean loss"] for entry in read_log(tmp_path / "log.jsonl") if "mean loss" in entry]
    (own,) = found
    close(own, metrics["running_avg"], rounding(max(inputs), len(inputs), dtype=np.float64), "mean loss")


def test_centre_map_of_the_authors_training(octave):
    """Cut at its threshold. The fixture is float16."""
    side = len(octave["off_cmap"])
    found = gaussian_maps(np.full((1, 2), side / 2 - 1), np.ones(1, bool), (side, side), CENTER_SIGMA)[0]
    close(found, octave["off_cmap"], stored(octave["off_cmap"]) + rounding(1, steps=3), "centre map")
    assert np.array_equal(found > 0, octave["off_cmap"] > 0)
