"""Settings, what commands answer to bad input, and files of joints that nobody knows."""

import json
import re

import numpy as np
import pytest

from common.errors import DataError, DataMissing
from common.skeletons import COCO17, SKELETONS
from deepercut_tf import eval_mscoco, pairwise_stats, train, val
from deepercut_tf.ai2coco_art_neckhead_json import convert
from deepercut_tf.config import HOUSE, as_cfg, find_config_file, load_config, make_config
from deepercut_tf.items import load_items
from deepercut_tf.joints import AIC17, joint_groups, skeleton_of_settings
from deepercut_tf.pairwise_stats import load_statistics
from deepercut_tf.targets import map_size
from tests.tolerance import close, rounding


def coco_config(root, **more):
    keys = {
        "dataset": str(root),
        "dataset_type": "coco",
        "dataset_phase": "train2017",
        "dataset_ann": "person_keypoints",
        "pos_dist_thresh": 14,
    }
    return make_config({**keys, "location_refinement": True, **more})


@pytest.mark.parametrize(
    "file", sorted(HOUSE.glob("models/**/pose_cfg.yaml")), ids=lambda file: str(file.parent.relative_to(HOUSE))
)
def test_shipped_settings(file):
    assert load_config(find_config_file(str(file.parent))).net_type.startswith("resnet_")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"net_typ": "resnet_50"}, "net_typ"),
        ({"net_type": "vgg"}, "resnet_152"),
        ({"optimizer": "adam", "adam_lr": "5e-x"}, "lr: '5e-x'"),
        ({"video": True}, "never published"),
        ({"net_type": "resnet_50", "intermediate_supervision": True}, r"1\.\.6"),
        ({"mirror": True, "shuffle": False}, "shuffle"),
        ({"multi_step": [[0.1, 20], [0.01, 10]]}, "ascend"),
        ({"multi_step": [[-0.1, 20]]}, "none below 0"),
        ({"multi_step": [0.1]}, r"schedule\[0\]"),
        ({"multi_step": [[]]}, "multi_step"),
        ({"all_joints": 3}, "list"),
        ({"stride": 4}, "stride must be 8"),
        ({"cached_scoremaps": "maps"}, "cached_scoremaps"),
        ({"global_scale": 0}, "global_scale"),
        ({"data_range": [3]}, "data_range"),
        ({"max_steps": 0}, "max_steps"),
        ({"workers": -1}, "workers"),
        ({"lr": float("nan")}, "lr"),
        ({"sparse_graph": [[0, "a"]]}, "sparse_graph"),
        ({"all_joints": [0, 1]}, "all_joints"),
        ({"channels": float("nan")}, "channels"),
    ],
)
def test_bad_settings_are_named(values, message):
    with pytest.raises(DataError, match=message):
        make_config(values)
    make_config({"net_typ": 1}, allow_unknown=True)


def test_skeletons_of_settings():
    """A data set's own joints, the right one of a pair first; or a known skeleton where the groups are its. There and
    back for all.
    """
    config = make_config({"num_joints": 3, "all_joints": [[0, 2], [1]], "all_joints_names": ["paw", "tail"]})
    assert skeleton_of_settings(config).joints == ("right_paw", "tail", "left_paw")
    for name, known in {**SKELETONS, "aic17": AIC17}.items():
        groups, words = joint_groups(known)
        keys = {"num_joints": len(known), "all_joints": groups, "all_joints_names": words}
        assert skeleton_of_settings(make_config(keys)).joints == known.joints, name
    groups, names = joint_groups(AIC17)
    assert groups[0] == [0] and names[1] == "head_top"
    assert map_size(17, 33) == (4, 6)


def test_two_spellings_of_the_settings(tmp_path):
    """The original's keys and ours are the same settings; cfg has the original's, and comes back unchanged."""
    theirs = {
        "dataset": "d.mat",
        "dataset_type": "mpii",
        "multi_step": [[0.1, 5]],
        "init_weights": "w",
        "dataset_phase": "a",
    }
    config = make_config({**theirs, "log_dir": "log"})
    assert (config.data_root, config.dataset, config.schedule) == ("d.mat", "mpii", [[0.1, 5]])
    cfg = as_cfg(config)
    assert {key: cfg[key] for key in theirs} == theirs and cfg.dataset_type == "mpii" and make_config(cfg) == config
    assert make_config({"dataset": "lsp", "data_root": "x"}).dataset == "lsp"
    assert make_config({"optimizer": "sgd", "adam_lr": 1.0}).lr is None  # as in the original
    (tmp_path / "pose_cfg.yaml").write_text("net_type: resnet_101\n")
    assert load_config(tmp_path, mirror=True).mirror and load_config(tmp_path).net_type == "resnet_101"


def test_bad_input_of_the_commands(tmp_path, monkeypatch, capsys, coco):
    """Exit code 2 and what is missing, with the source and the stand-in command for data sets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POSE_PARAM_PATH", raising=False)
    assert train.main([]) == 2
    # the paper's preset; where data/mpii is there, as after the quickstart, what makes crops of it is named
    assert re.search("common.datasets.synthetic mpii|prepare_mpii.py", capsys.readouterr().err)
    assert pairwise_stats.main([]) == 2
    assert "pose_cfg.yaml" in capsys.readouterr().err
    settings = tmp_path / "pose_cfg.yaml"
    settings.write_text(
        "dataset_type: coco\ndataset: nowhere\ndataset_phase: val2017\nnum_joints: 17\nnet_type: resnet_50\n"
    )
    for command in (train.main, val.main, pairwise_stats.main, eval_mscoco.main):
        assert command([]) == 2, command
        assert "cocodataset.org" in (text := capsys.readouterr().err) and "common.datasets.synthetic coco" in text
    settings.write_text(settings.read_text() + "nonsense: 1\n")
    assert train.main([]) == 2 and "nonsense" in capsys.readouterr().err
    assert train.main(["--limit", "0", "--allow_unknown"]) == 2 and "limit" in capsys.readouterr().err
    settings.write_text(settings.read_text().replace("nonsense: 1\n", ""))
    for words in (["--init_weights", "absent.ckpt"], ["--pairwise_predict"]):
        assert train.main(["--data_root", str(coco), "--train_split", "train2017", *words]) == 2
        assert "resnet_v1_" in (text := capsys.readouterr().err) or "pairwise_stats.py" in text
    (tmp_path / "bad.json").write_text('[{"image_id": 1, "keypoints": [1, 2, 3], "score": 1, "category_id": 1}]')
    assert eval_mscoco.main(["--data_root", str(coco), "--pred", "bad.json"]) == 2
    with pytest.raises(DataMissing, match="prepare_mpii"):
        load_items(make_config({"dataset": "absent.mat", "dataset_type": "mpii"}))
    with pytest.raises(DataError, match="pairwise_stats.py"):
        load_statistics(tmp_path / "absent.mat", 3)


def test_json_of_unknown_joints(tmp_path, capsys, coco):
    """COCO's layout with other joints, a skeleton that nobody knows, AI Challenger's persons with COCO's 17 joints:
    file and field are named.

    A file that describes its own joints is read.
    """
    for split, keypoints in (("train2017", ["snout", "tail"]), ("val2017", ["neck", *COCO17.joints[1:]])):
        content = json.loads((coco / "annotations" / f"person_keypoints_{split}.json").read_text())
        content["categories"][0]["keypoints"] = keypoints
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"person_keypoints_{split}.json").write_text(json.dumps(content))
        with pytest.raises(
            DataError, match=rf"person_keypoints_{split}\.json: field categories .*{keypoints[0]}.*format `json`"
        ):
            load_items(coco_config(tmp_path, dataset_phase=split))
    own = {
        "skeleton": "centaur",
        "images": [{"file": "a.png", "width": 120, "height": 110, "persons": [{"joints": [[5, 6], [7, 8], None]}]}],
    }
    (tmp_path / "own.json").write_text(json.dumps(own))
    config = make_config({"dataset": str(tmp_path / "own.json"), "dataset_type": "json"})
    with pytest.raises(DataError, match="own.json: field skeleton: 'centaur' is not known"):
        load_items(config)
    own["skeleton"] = {"name": "horse", "joints": ["nose", "left_hoof", "right_hoof"]}
    (tmp_path / "own.json").write_text(json.dumps(own))
    item_set, config = load_items(config)
    assert (
        config.num_joints == 3
        and config.all_joints_names == ["nose", "hoof"]
        and item_set.items[0].persons[0].tolist() == [[0, 5, 6], [1, 7, 8]]
    )
    entry = {
        "image_id": "a",
        "keypoint_annotations": {"human1": [0] * 51},
        "human_annotations": {"human1": [0, 0, 5, 5]},
    }
    with pytest.raises(DataError, match="image a .*human1 has 51 numbers"):
        convert([entry], {"a": (9, 9)})


def test_statistics_command(coco, tmp_path):
    """The file that pairwise_stats.py writes has every pair, and is that of another joint set for another number of
    joints.
    """
    (tmp_path / "pose_cfg.yaml").write_text(
        f"dataset_type: coco\ndataset: {coco}\ndataset_phase: train2017\nmirror: true\npairwise_stats_fn: {tmp_path}/s.mat\n"
    )
    assert pairwise_stats.main(["--config", str(tmp_path)]) == 0
    statistics = load_statistics(tmp_path / "s.mat", 17, scale=0.5)
    assert statistics.shape == (2, 17, 17, 2) and (statistics[1] > 0).all()
    whole = load_statistics(tmp_path / "s.mat", 17)
    np.testing.assert_array_equal(whole[0], 2 * statistics[0])
    # mirrored copies: left shoulder -> right shoulder is the mirror image of the other way round
    close(whole[0, 5, 6, 0], -whole[0, 6, 5, 0], rounding(1000, dtype=np.float64))
    with pytest.raises(DataError, match="another joint set"):
        load_statistics(tmp_path / "s.mat", 18)


def test_gpus_that_are_asked_for(monkeypatch):
    """Only those are seen, and their memory grows as needed; a number that is not there is refused."""
    from types import SimpleNamespace

    from common.runs.process import keras_devices
    from common.weights import tf1

    seen, grown = [], []
    config = SimpleNamespace(
        list_physical_devices=lambda kind: ["gpu0", "gpu1", "gpu2"],
        set_visible_devices=lambda gpus, kind: seen.append(gpus),
        experimental=SimpleNamespace(set_memory_growth=lambda gpu, on: grown.append((gpu, on))),
    )
    monkeypatch.setattr(tf1, "tensorflow", lambda: SimpleNamespace(config=config))
    assert keras_devices("cuda:0,2") == 2
    assert seen == [["gpu0", "gpu2"]] and grown == [("gpu0", True), ("gpu2", True)]
    assert keras_devices("cpu") == 0 and seen[1] == []
    with pytest.raises(DataError, match="no GPU 3"):
        keras_devices("cuda:3")


def test_convolutions_are_tuned_only_for_buckets(monkeypatch, coco):
    """As the original's command has it; what the user says stays."""
    import os

    for bucket, said, expected in ((0, None, "0"), (32, None, None), (0, "1", "1")):
        monkeypatch.setenv("TF_CUDNN_USE_AUTOTUNE", said or "")  # so that it is put back
        if not said:
            monkeypatch.delenv("TF_CUDNN_USE_AUTOTUNE")
        train.prepare(coco_config(coco, bucket=bucket))
        assert os.environ.get("TF_CUDNN_USE_AUTOTUNE") == expected


def test_a_wrong_validation_split_is_said_before_the_training(coco):
    with pytest.raises(DataError, match="nowhere"):
        train.prepare(coco_config(coco, valid_split="nowhere"))
