"""`examples/gpu_check.sh`, rehearsed on the CPU: a golden test, a bench, the loader, the JSON of it all."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_check_of_a_gpu_machine_on_a_cpu(tmp_path):
    variables = {
        "DEVICE": "cpu",
        "PYTHON": sys.executable,
        "PARTS": "^(tests|draw|val_caffe|stage2)$",
        "OMP_NUM_THREADS": "1",
    }
    command = ["bash", str(ROOT / "examples/gpu_check.sh"), "found/check.json"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    found = json.loads((tmp_path / "found/check.json").read_text())
    assert found["device"] == "CPU" and set(found["parts"]) == {"tests", "draw", "val_caffe", "stage2"}
    assert all(part["code"] == 0 for part in found["parts"].values())
    assert (
        found["tests"]["tests"] >= 4
        and not found["tests"]["failure"]
        and 0 < found["tests"]["largest share of a tolerance"] < 1
    )
    assert [row[:3] for row in found["tables"]["stage2"]["rows"]] == [
        ["deeppose stage 2", "inference", "eager"],
        ["deeppose stage 2", "training", "eager"],
    ]


def test_without_a_gpu_it_says_so(tmp_path):
    command = ["bash", str(ROOT / "examples/gpu_check.sh"), str(tmp_path / "check.json")]
    environment = os.environ | {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and "PyTorch sees no GPU here; DEVICE=cpu rehearses" in done.stderr
