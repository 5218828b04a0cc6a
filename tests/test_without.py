"""The torch houses where lmdb, pycocotools, easydict and munkres are not installed: import, train, score."""

import os
import pathlib
import subprocess
import sys

import h5py
import numpy as np
import pytest

from common.datasets import synthetic

ROOT = pathlib.Path(__file__).resolve().parent.parent
LACKING = (
    "lmdb",
    "pycocotools",
    "easydict",
    "munkres",
    "chainer",
    "tensorflow",
    "keras",
    "paddle",
    "onnx",
    "tensorboard",
)
PROGRAM = """
import runpy, sys
sys.modules.update(dict.fromkeys({lacking}))
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
NET = """
layer { name: "data" type: "HDF5Data" top: "data" top: "label" hdf5_data_param { source: "list.txt" batch_size: 2 } }
layer { name: "predict" type: "InnerProduct" bottom: "data" top: "predict" inner_product_param { num_output: 4 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "predict" bottom: "label" top: "loss" }
"""
SOLVER = 'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 3 snapshot_prefix: "snap"'
TINY = (
    "--preset=none",
    "--model=cpm",
    "--channels=0.0625",
    "--input_width=64",
    "--workers=0",
    "--batch_size=2",
    "--epochs=1",
)


def run(*words: str, folder: pathlib.Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", PROGRAM.format(lacking=LACKING), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("people") / "lsp"
    synthetic.make("lsp", folder, 8, seed=1)
    return f"--data_root={folder}"


@pytest.mark.slow
def test_lpm_torch_trains_and_scores(people, tmp_path):
    for words in (["lpm_torch.train", *TINY, "--valid_split=none"], ["lpm_torch.val", "--result=run.json"]):
        found = run(
            *words,
            "--dataset=lsp",
            people,
            *(["--out=run"] if "train" in words[0] else ["--weights=run"]),
            folder=tmp_path,
        )
        assert found.returncode == 0, found.stderr[-2000:]
    assert (tmp_path / "run.json").is_file()


@pytest.mark.slow
def test_deeppose_caffe_port_trains_and_scores(people, tmp_path):
    """Its stages are trained on LMDBs, as the original's; solver files on HDF5 and lists of pictures need none."""
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    (tmp_path / "list.txt").write_text("a.h5\n")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"], file["label"] = np.ones((4, 3), np.float32), np.ones((4, 4), np.float32)
    trained = run("deeppose_caffe_port.train", "--solver=solver.prototxt", "--device=cpu", folder=tmp_path)
    assert trained.returncode == 0 and (tmp_path / "snap_iter_3.caffemodel").is_file(), trained.stderr[-2000:]
    words = ["--weights=lspet", "--dataset=lsp", people, "--split=test", "--limit=2", "--device=cpu"]
    scored = run("deeppose_caffe_port.val", *words, "--result=run.json", folder=tmp_path)
    assert scored.returncode == 0 and (tmp_path / "run.json").is_file(), scored.stderr[-2000:]
    stage = ["--preset=smoke", "--dataset=lsp", people, "--max_steps=1", "--out=stages", "--device=cpu"]
    refused = run("deeppose_caffe_port.train", *stage, folder=tmp_path)
    assert refused.returncode == 2 and "needs the package lmdb (pip install lmdb)" in refused.stderr, refused.stderr
