"""Driver of quickstart.sh: synthetic data -> train -> score -> baselines -> pictures -> out/quickstart/report.md.

Each job is the house's own commands, run as a user would type them; nothing here knows a framework.
"""

from __future__ import annotations

import argparse
import json
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
    """One network of one house. `{data}`, `{out}` in the commands are its data folder and its own folder below out/quickstart."""

    house: str
    model: str
    dataset: str  # name in common.datasets
    folder: str  # below data/
    make: tuple[str, ...]  # options of the synthetic generator
    train_split: str
    test_split: str
    protocol: str
    train: tuple[str, ...]
    score: tuple[str, ...]  # must write {out}/predictions.npz, or {out}/random.npz with `random` appended
    random: tuple[str, ...] = ("--random_weights",)

    @property
    def name(self) -> str:
        return f"{self.house}/{self.model}"


_LPM = ("--data_dir={data}", "--model_dir={out}/checkpoints")
JOBS = (
    Job(
        house="lpm_torch", model="lpm", dataset="penn_action", folder="PennAction", make=(), train_split="train", test_split="test",
        protocol="pck_box@0.2",
        train=("lpm_torch/train.py", "--model=lpm", "--dataset=PennAction", "--preset=smoke", "--log_dir={out}/logs", *_LPM),
        score=("lpm_torch/val.py", "--model=lpm", "--dataset=PennAction", "--split=test", "--out={out}/{what}.npz", *_LPM),
    ),
    Job(
        house="lpm_torch", model="cpm", dataset="lsp", folder="LSP", make=(), train_split="train", test_split="test",
        protocol="pck_torso@0.2",
        train=("lpm_torch/train.py", "--model=cpm", "--dataset=LSP", "--preset=smoke", "--max_epochs=6", "--log_dir={out}/logs", *_LPM),
        score=("lpm_torch/val.py", "--model=cpm", "--dataset=LSP", "--split=test", "--out={out}/{what}.npz", *_LPM),
    ),
    Job(
        house="deeppose_caffe_port", model="deeppose_refine", dataset="k2hpd", folder="K2HPD", make=(), train_split="train", test_split="test",
        protocol="pdj@0.5",
        train=("deeppose_caffe_port/workflow.py", "run_all", "--data_dir={data}", "--work={out}/project"),
        score=("deeppose_caffe_port/val.py", "--data_dir={data}", "--work={out}/project", "--out={out}/{what}.npz"),
    ),
)  # fmt: skip


def run(job: Job, command: tuple[str, ...], data: Path, what: str = "predictions") -> None:
    """Run one of the house's commands; SystemExit with its exit code when it fails."""
    words = [word.format(data=data, out=OUT / job.name, what=what) for word in command]
    print("\n$ python " + " ".join(words), flush=True)
    code = subprocess.run([sys.executable, *words], cwd=ROOT).returncode
    if code:
        raise SystemExit(f"quickstart: {words[0]} of {job.name} ended with code {code}")


def prepare_data(job: Job) -> Path:
    """The synthetic data set of a job, made if need be. Real data in data/ is left alone: the stand-in then goes below out/."""
    folder = ROOT / "data" / job.folder
    if folder.exists() and not (folder / "SYNTHETIC").exists():
        folder = OUT / "data" / job.folder
    if not (folder / "SYNTHETIC").exists():
        command = [sys.executable, "-m", "common.datasets.synthetic", job.dataset, str(folder), *job.make]
        print("\n$ python " + " ".join(command[1:]), flush=True)
        subprocess.run(command, cwd=ROOT, check=True)
    return folder


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
    return {name: score(test, predictions, [job.protocol])[job.protocol].total for name, predictions in sources.items()} | {"n": len(test)}


def contact_sheet(job: Job, test, predictions, count: int = 12) -> None:
    """Ground truth and prediction side by side for persons spread over the test split."""
    import numpy as np

    from common import draw
    from common.importers import align_rows
    from common.poses import read_image

    aligned = align_rows(predictions, test)
    cells = []
    for row in np.linspace(0, len(test) - 1, count).astype(int):
        image = read_image(test.images[row])
        cells.append(draw.truth_and_prediction(image, test.joints[row], aligned.joints[row], test.skeleton, height=240))
    draw.save_image(OUT / f"{job.house}_{job.model}.png", draw.contact_sheet(cells, columns=3, cell=(480, 240)))


def report(rows: list[dict]) -> str:
    """The table as Markdown."""
    lines = [
        "# Quickstart: smoke presets on SYNTHETIC people, held-out half",
        "",
        "Crops come from annotated boxes (oracle). These figures show that the whole chain works; they say nothing about photographs.",
        "",
        "| house | network | data (synthetic) | test persons | protocol | trained | mean pose | random weights | minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r['house']} | {r['model']} | {r['dataset']} | {r['n']} | {r['protocol']} | **{r['score']:.1f}** | {r['mean pose']:.1f} |"
            f" {r['random weights']:.1f} | {r['minutes']:.1f} |"
        )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    total = sum(r["minutes"] for r in rows)
    pictures = ", ".join(f"{r['house']}_{r['model']}.png" for r in rows)
    lines += ["", f"Jobs took {total:.1f} minutes; the largest process used {peak:.1f} GB. Pictures: {pictures}"]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the jobs of every house that is here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", metavar="HOUSE", help="these houses only")
    args = parser.parse_args()
    rows = []
    for job in JOBS:
        if not (ROOT / job.train[0]).exists() or (args.only and job.house not in args.only):
            continue
        began = time.monotonic()
        data = prepare_data(job)
        run(job, job.train, data)
        run(job, job.score, data)
        run(job, (*job.score, *job.random), data, "random")
        row = {"house": job.house, "model": job.model, "dataset": job.dataset, "protocol": job.protocol, **figures(job, data)}
        rows.append({**row, "minutes": (time.monotonic() - began) / 60})
    if not rows:
        print("quickstart: no such house", file=sys.stderr)
        return 2
    text = report(rows)
    (OUT / "report.md").write_text(text)
    (OUT / "report.json").write_text(json.dumps(rows, indent=2) + "\n")
    print("\n" + text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
