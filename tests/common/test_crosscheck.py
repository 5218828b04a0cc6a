"""Reported against measured: the data file is whole, verdicts are right, runs find their rows, every output form
works."""

import json
import subprocess
import sys

import numpy as np
import pytest

from common.crosscheck import main, table_of
from common.errors import DataError
from common.protocols import protocols_of
from common.reported import comparable, compare, load_runs, reported, save_run
from tests.tolerance import rounding

EXACT = rounding(100, dtype=np.float64)  # one difference of percentages

NOT_SCORED_HERE = {"multi_person_map", "pck_extent@0.2:compat", "oks_ap", "pckh_neck_symmetric@0.5"}


def result(total, **parts):
    return {"total": total, "per_joint": parts, "aggregation": "test", "n": 10}


def run_file(
    folder,
    house="simplebaseline_paddle",
    model="resnet50_256x256",
    dataset="mpii",
    split="valid",
    protocols=None,
    name="run",
    **meta,
):
    protocols = protocols or {"pckh@0.5": {**result(88.0), "per_group": {"head_top": 95.0, "wrist": 83.0}}}
    meta = {"boxes": "oracle", "flip_test": True, "synthetic": False, **meta}
    path = folder / house / "results" / f"{name}.json"
    save_run(
        path,
        house=house,
        model=model,
        dataset=dataset,
        split=split,
        protocols=protocols,
        meta=meta,
        command=f"python {house}/val.py",
    )
    return path


def test_reported_tables_are_whole():
    tables, silent = reported()
    names = [t["table"] for t in tables]
    assert len(set(names)) == len(names)
    needed = (
        "house",
        "dataset",
        "splits",
        "protocol",
        "unit",
        "boxes",
        "centric",
        "aggregation",
        "source",
        "comparable",
        "why",
        "columns",
        "rows",
    )
    for table in tables:
        assert all(table[key] is not None for key in needed), table["table"]
        assert "total" in table["columns"] and table["boxes"] in ("oracle", "detector", "none")
        highest = 1 if table["unit"] == "fraction" else 100
        for model, values in table["rows"].items():
            assert len(values) == len(table["columns"]), (table["table"], model)
            assert all(v is None or 0 <= v <= highest for v in values), (table["table"], model)
        known = table["protocol"] in protocols_of(table["dataset"])
        assert known or (not table["comparable"] and table["protocol"] in NOT_SCORED_HERE), (
            f"{table['table']}: {table['protocol']}"
        )
    houses = {t["house"] for t in tables} | {s["house"] for s in silent}
    assert {"deeppose_tf", "lpm_torch", "deepercut_tf", "simplebaseline_paddle", "deeppose_caffe_port"} <= houses


def test_totals_are_what_the_aggregation_says():
    """The plain means that README totals can be recomputed from."""
    rows = {t["table"]: t for t in reported()[0]}
    for name in ("deeppose_tf_lsp_pcp", "deeppose_tf_mpii_pckh"):
        for values in rows[name]["rows"].values():
            assert values[-1] == pytest.approx(
                sum(values[:-1]) / len(values[:-1]), rel=0, abs=0.1
            )  # columns and total are printed to a tenth
    joints = rows["lpm_torch_penn_joints"]["rows"]["lpm"]
    assert sum(joints[:-1]) / 13 == pytest.approx(96.02, rel=0, abs=0.01)  # printed to a hundredth
    copied = rows["lpm_torch_penn_groups"]["rows"]["lpm"]
    assert copied[:7] == [joints[i] for i in (0, 1, 2, 3, 4, 5, 12)]


GOOD = {"boxes": "oracle", "flip_test": True}


@pytest.mark.parametrize(
    "dataset, protocol, split, meta, allowed, words",
    [
        ("mpii", "pckh@0.5", "valid", GOOD, True, "simplebaseline_mpii"),
        ("mpii", "pckh@0.5", "valid", {}, True, "which the file does not state"),
        ("mpii", "pckh@0.5", "train", GOOD, False, "split valid"),
        ("mpii", "pckh@0.5", "valid", {**GOOD, "synthetic": True}, False, "synthetic"),
        ("mpii", "pckh@0.5", "valid", {**GOOD, "flip_test": False}, False, "flip test"),
        ("mpii", "pckh@0.5", "valid", {**GOOD, "stand_ins": ["pelvis"]}, False, "pelvis"),
        ("jhmdb", "pck_box@0.2", "test1", {**GOOD, "flip_test": False, "stand_ins": ["belly"]}, True, "official_jhmdb"),
        ("mpii", "mean@0.1:compat", "valid", GOOD, True, "0.11"),
        ("mpii", "pckh@0.1", "valid", GOOD, True, "0.10"),
        ("mpii", "pck_box@0.2", "valid", GOOD, False, "no published table"),
        ("coco", "oks_ap", "val2017", {**GOOD, "boxes": "detector"}, True, "simplebaseline_coco_detector"),
        ("coco", "oks_ap", "val2017", GOOD, True, "simplebaseline_coco_paddle"),
        ("penn_action", "pck_box@0.2", "test", {"missing_rows": 4}, False, "4 persons"),
        ("lsp", "pck_extent@0.2:compat", "test", {}, False, "31 x 31"),
        ("ai_challenger", "aic_map", "valid", {}, False, "not known"),
        ("nothing", "at all", "x", {}, False, "no published table"),
    ],
)
def test_comparable(dataset, protocol, split, meta, allowed, words):
    verdict, text = comparable(dataset, protocol, split, meta)
    assert verdict is allowed and words in text
    assert text.startswith("comparable with" if allowed else "not comparable: ")


def test_detector_runs_are_not_set_beside_oracle_rows():
    assert "simplebaseline_coco_paddle" not in comparable("coco", "oks_ap", "val2017", {**GOOD, "boxes": "detector"})[1]
    assert "simplebaseline_coco_detector (" not in comparable("coco", "oks_ap", "val2017", GOOD)[1]


def test_measured_lines(tmp_path):
    run_file(tmp_path, name="a", seed=1)
    run_file(tmp_path, name="b", seed=2, protocols={"pckh@0.5": result(89.0)})
    run_file(tmp_path, model="resnet18_128", name="c")
    run_file(tmp_path, name="d", model="resnet50_384x384", synthetic=True)
    lines = compare(load_runs(tmp_path), "simplebaseline_paddle")
    ours = next(x for x in lines if x["table"] == "simplebaseline_mpii" and x["model"] == "resnet50_256x256")
    assert (ours["measured"], ours["seeds"], ours["spread"], ours["comparable"]) == (88.5, 2, 1.0, True)
    assert ours["difference"] == pytest.approx(88.5 - 88.532, rel=0, abs=EXACT)
    synthetic = next(x for x in lines if x["table"] == "simplebaseline_mpii" and x["model"] == "resnet50_384x384")
    assert synthetic["comparable"] is False and synthetic["images"] == "synthetic" and "synthetic" in synthetic["why"]
    silent = next(x for x in lines if x["table"] == "simplebaseline_mpii" and x["model"] == "resnet101_256x256")
    assert silent["measured"] is None and silent["comparable"] is None
    extra = next(x for x in lines if x["model"] == "resnet18_128")
    assert extra["reported"] is None and extra["measured"] == 88.0 and extra["comparable"] is False
    assert {x["house"] for x in lines} == {"simplebaseline_paddle"}


def test_a_figure_that_could_not_be_formed(tmp_path):
    run_file(tmp_path, protocols={"pckh@0.5": result(None)})
    lines = compare(load_runs(tmp_path))
    assert next(x for x in lines if x["table"] == "simplebaseline_mpii")["difference"] is None
    assert "resnet50_256x256" in table_of(lines)


def test_forms_show_every_column(tmp_path, capsys):
    run_file(tmp_path)
    lines = compare(load_runs(tmp_path))
    table = table_of(lines).splitlines()
    assert len({row.replace("\\|", "").count("|") for row in table}) == 1 and len(table) == len(lines) + 2
    for word in (
        "boxes",
        "centric",
        "flip test",
        "seeds",
        "images",
        "reported",
        "measured",
        "difference",
        "recipe",
        "comparable?",
        "why",
    ):
        assert word in table[0]
    assert main(["--results", str(tmp_path)]) == 0 and "eldar/pose-tensorflow" in capsys.readouterr().out


def test_bad_results(tmp_path, capsys):
    assert main(["--results", str(tmp_path / "absent")]) == 2
    assert "does not exist" in capsys.readouterr().err
    path = run_file(tmp_path)
    path.write_text("{")
    with pytest.raises(DataError, match="readable JSON"):
        load_runs(tmp_path)
    path.write_text('{"house": "x"}')
    with pytest.raises(DataError, match="model is missing"):
        load_runs(tmp_path)
    path.write_text(json.dumps(json.loads(run_file(tmp_path).read_text()) | {"meta": [3]}))
    with pytest.raises(DataError, match=r"meta is \[3\]; write an object"):
        load_runs(tmp_path)
    run_file(tmp_path, protocols={"pckh@0.5": {"n": 1}})
    with pytest.raises(DataError, match="pckh@0.5.total is missing"):
        load_runs(tmp_path)
    with pytest.raises(ValueError):
        run_file(tmp_path, protocols={"pckh@0.5": result(float("nan"))})
    assert not list(tmp_path.glob("**/*.tmp.json"))


def test_works_from_another_directory(tmp_path):
    """The default results folder is the repository, wherever the command runs."""
    from pathlib import Path

    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "common.crosscheck", "--house", "deepercut_tf"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "0.360" in done.stdout, done.stderr
