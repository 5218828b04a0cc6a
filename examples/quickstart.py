"""Driver of quickstart.sh: synthetic data -> train -> score -> baselines -> pictures -> out/quickstart/report.md.

Each job is the house's own commands, run as a user would type them; nothing here knows a framework.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)
OUT = ROOT / "out" / "quickstart"


@dataclass(frozen=True)
class Job:
    """One network of one house. `{data}`, `{out}` in the commands are its data folder and its own folder below
    out/quickstart."""

    house: str
    model: str
    dataset: str  # name in common.datasets
    folder: str  # below data/
    train_split: str
    test_split: str
    protocol: str
    train: tuple[tuple[str, ...], ...]  # commands in order
    score: tuple[str, ...]  # must write {out}/predictions.npz, or {out}/random.npz with `random` appended
    random: tuple[str, ...] = ("--random_weights",)
    count: int | None = None  # pictures of the stand-in, if not its usual number

    @property
    def name(self) -> str:
        return f"{self.house}/{self.model}"

    @property
    def shown(self) -> str:
        """The data set as the table names it; a network may be scored on what it was trained on, which must not pass
        for held-out."""
        return f"{self.dataset}, {'fitted' if self.train_split == self.test_split else 'held-out'}"


_LPM = ("--data_dir={data}", "--model_dir={out}/checkpoints")
_LPM_TRAIN = ("--preset=smoke", "--amp=auto", "--log_dir={out}/logs", *_LPM)
_DEEPERCUT = ("--preset=smoke", "--dataset=lsp", "--data_root={data}")
JOBS = (
    Job(
        house="lpm_torch", model="lpm", dataset="penn_action", folder="PennAction", train_split="train", test_split="test", protocol="pck_box@0.2",
        train=(("lpm_torch/train.py", "--model=lpm", "--dataset=PennAction", "--max_epochs=30", *_LPM_TRAIN),),
        score=("lpm_torch/val.py", "--model=lpm", "--dataset=PennAction", "--split=test", "--out={out}/{what}.npz", *_LPM),
    ),
    Job(
        house="lpm_torch", model="cpm", dataset="lsp", folder="LSP", train_split="train", test_split="1001-1400", protocol="pck_torso@0.2",
        train=(("lpm_torch/train.py", "--model=cpm", "--dataset=LSP", "--max_epochs=4", *_LPM_TRAIN),),
        score=("lpm_torch/val.py", "--model=cpm", "--dataset=LSP", "--split=1001-1400", "--out={out}/{what}.npz", *_LPM),
    ),
    Job(
        house="deeppose_tf", model="alexnet", dataset="lsp", folder="LSP", train_split="train", test_split="test", protocol="pcp_strict@0.5",
        train=(
            ("deeppose_tf/prepare.py", "lsp", "--synthetic", "{data}"),
            ("deeppose_tf/train.py", "--preset=smoke", "--dataset=lsp", "--data_root={data}", "--out={out}/run"),
        ),
        score=("deeppose_tf/val.py", "--weights={out}/run", "--dataset=lsp", "--data_root={data}", "--split=test", "--out={out}/{what}.npz"),
    ),
    Job(
        house="deeppose_caffe_port", model="deeppose_refine", dataset="k2hpd", folder="K2HPD", train_split="train", test_split="test",
        protocol="pdj@0.5",
        train=(("deeppose_caffe_port/workflow.py", "run_all", "--data_root={data}", "--out={out}/project"),),
        score=("deeppose_caffe_port/val.py", "--data_root={data}", "--weights={out}/project", "--out={out}/{what}.npz"),
    ),
    Job(
        house="deepercut_tf", model="resnet50", dataset="lsp", folder="LSP", train_split="train", test_split="1001-1400", protocol="pck_torso@0.2",
        train=(("deepercut_tf/train.py", *_DEEPERCUT, "--out={out}/run"),),
        score=("deepercut_tf/val.py", *_DEEPERCUT, "--weights={out}/run", "--split=1001-1400", "--out={out}/{what}.npz"),
    ),
    Job(
        house="simplebaseline_paddle", model="resnet18", dataset="mpii", folder="mpii", train_split="train", test_split="valid", protocol="pckh@0.5",
        train=(("simplebaseline_paddle/train.py", "--dataset=mpii", "--preset=smoke", "--epochs=18", "--data_root={data}", "--out={out}/run"),),
        score=("simplebaseline_paddle/val.py", "--dataset=mpii", "--data_root={data}", "--weights={out}/run", "--out={out}/{what}.npz"),
    ),
    # OKS asks for joints within a few hundredths of the person's size: on held-out people that takes more training than
    # there is time for here, so this network learns a few pictures by heart and is scored on them
    Job(
        house="simplebaseline_paddle", model="resnet18_96x64", dataset="coco", folder="coco_few", count=40, train_split="train", test_split="train",
        protocol="oks_ap",
        train=(("simplebaseline_paddle/train.py", "--dataset=coco", "--preset=smoke", "--boxes=annotated", "--augmentation=none",
                "--input_height=96", "--input_width=64", "--sigma=1.5", "--batch_size=8", "--lr=0.003", "--epochs=90", "--data_root={data}",
                "--out={out}/run"),),
        score=("simplebaseline_paddle/val.py", "--dataset=coco", "--boxes=annotated", "--split=train", "--no-flip_test", "--data_root={data}",
               "--weights={out}/run", "--out={out}/{what}.npz"),
    ),
)  # fmt: skip
STAND_INS = (("coco", "coco"),)  # what no job needs, but a bare `python simplebaseline_paddle/val.py` does


def run(job: Job, command: tuple[str, ...], data: Path, what: str = "predictions") -> None:
    """Run one of the house's commands; SystemExit with its exit code when it fails."""
    words = [word.format(data=data, out=OUT / job.name, what=what) for word in command]
    print("\n$ python " + " ".join(words), flush=True)
    code = subprocess.run([sys.executable, *words], cwd=ROOT).returncode
    if code:
        raise SystemExit(f"quickstart: {words[0]} of {job.name} ended with code {code}")


def prepare_data(name: str, folder: str, count: int | None = None) -> Path:
    """A synthetic data set, made if need be. Real data in data/ is left alone: the stand-in then goes below out/."""
    path = ROOT / "data" / folder
    if path.exists() and not (path / "SYNTHETIC").exists():
        path = OUT / "data" / folder
    if not (path / "SYNTHETIC").exists():
        command = [
            sys.executable,
            "-m",
            "common.datasets.synthetic",
            name,
            str(path),
            *([] if count is None else [f"--count={count}"]),
        ]
        print("\n$ python " + " ".join(command[1:]), flush=True)
        subprocess.run(command, cwd=ROOT, check=True)
    return path


def figures(job: Job, data: Path) -> dict:
    """Scores of the trained network and of both baselines by the job's protocol."""
    from common import datasets
    from common.baselines import mean_pose
    from common.evaluate import score
    from common.importers import load_any

    test = datasets.load(job.dataset, data, job.test_split)
    train = datasets.load(job.dataset, data, job.train_split)
    sources = {"score": load_any(OUT / job.name / "predictions.npz", test), "mean pose": mean_pose(train, test)}
    sources["random weights"] = load_any(OUT / job.name / "random.npz", test)
    contact_sheet(job, test, sources["score"])
    return {
        name: score(test, predictions, [job.protocol])[job.protocol].total for name, predictions in sources.items()
    } | {"n": len(test)}


def contact_sheet(job: Job, test, predictions, count: int = 12) -> None:
    """Ground truth and prediction side by side for persons spread over the test split, those that were looked at (in
    COCO not all are)."""
    import numpy as np

    from common import draw
    from common.images import read_image
    from common.importers import align_rows

    seen = set(zip(predictions.image_id.tolist(), predictions.person_id.tolist()))
    test = test.select([i for i, key in enumerate(zip(test.image_id.tolist(), test.person_id.tolist())) if key in seen])
    aligned = align_rows(predictions, test)
    cells = []
    for row in np.linspace(0, len(test) - 1, count).astype(int):
        image = read_image(test.images[row])
        cells.append(draw.truth_and_prediction(image, test.joints[row], aligned.joints[row], test.skeleton, height=240))
    draw.save_image(OUT / f"{job.house}_{job.model}.png", draw.contact_sheet(cells, columns=3, cell=(480, 240)))


def summary(rows: list[dict], minutes: float) -> dict:
    """What report.json holds: the rows, and what the whole run needed."""
    return {
        "rows": rows,
        "minutes": minutes,
        "largest_process_gb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }


def report(result: dict) -> str:
    """The table as Markdown."""
    from common.crosscheck import quickstart_table

    pictures = ", ".join(f"{row['house']}_{row['model']}.png" for row in result["rows"])
    return "\n".join(
        [
            "# Quickstart: smoke presets on SYNTHETIC people",
            "",
            "Scored on held-out persons, but where `fitted` is said: on the very pictures that were trained on.",
            "Crops come from annotated boxes (oracle), but for deepercut_tf, which sees the whole picture.",
            "These figures show that the whole chain works; they say nothing about photographs.",
            "",
            quickstart_table(result),
            "",
            f"Pictures: {pictures}",
            "",
        ]
    )


def main() -> int:
    """Run the jobs of every house that is here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", metavar="HOUSE", help="these houses only")
    args = parser.parse_args()
    rows, started = [], time.monotonic()
    for job in JOBS:
        if not (ROOT / job.house).exists() or (args.only and job.house not in args.only):
            continue
        began = time.monotonic()
        data = prepare_data(job.dataset, job.folder, job.count)
        for command in job.train:
            run(job, command, data)
        run(job, job.score, data)
        run(job, (*job.score, *job.random), data, "random")
        row = {
            "house": job.house,
            "model": job.model,
            "dataset": job.shown,
            "protocol": job.protocol,
            **figures(job, data),
        }
        rows.append({**row, "minutes": (time.monotonic() - began) / 60})
    if not rows:
        print("quickstart: no such house", file=sys.stderr)
        return 2
    for name, folder in () if args.only else STAND_INS:
        prepare_data(name, folder)
    result = summary(rows, (time.monotonic() - started) / 60)
    text = report(result)
    (OUT / "report.md").write_text(text)
    (OUT / "report.json").write_text(json.dumps(result, indent=2) + "\n")
    print("\n" + text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
