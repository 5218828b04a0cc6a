"""Driver of quickstart.sh: synthetic data -> train -> score -> baselines -> pictures -> out/quickstart/report.md.

Each job is the house's own commands, run as a user would type them; nothing here knows a framework.
"""

from __future__ import annotations

import argparse
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
    """One network of one house, trained by its smoke preset and scored by one protocol."""

    house: str
    model: str
    dataset: str  # name in common.datasets
    folder: str  # below data/
    test_split: str
    protocol: str
    train: str = ""  # further options of the training, and of the scoring
    score: str = ""
    programme: str = "train.py"
    train_split: str = "train"
    count: int | None = None  # pictures of the stand-in, if not its usual number

    @property
    def out(self) -> Path:
        """Folder of the run and its predictions."""
        return OUT / self.house / self.model

    def commands(self, data: Path) -> list[list[str]]:
        """Training, scoring, and scoring of random weights."""
        both = [f"--dataset={self.dataset}", f"--data_root={data}"]
        run = self.out / "run"
        train = [
            *f"{self.house}/{self.programme}".split(),
            *both,
            "--preset=smoke",
            *self.train.split(),
            f"--out={run}",
        ]
        val = [f"{self.house}/val.py", *both, f"--split={self.test_split}", *self.score.split(), f"--weights={run}"]
        scored, random = (f"--out={self.out / name}.npz" for name in ("predictions", "random"))
        return [train, [*val, scored], [*val, random, "--random_weights"]]


JOBS = (
    Job("lpm_torch", "lpm", "penn_action", "PennAction", "test", "pck_box@0.2", "--model=lpm --epochs=30 --amp=auto"),
    Job("lpm_torch", "cpm", "lsp", "LSP", "1001-1400", "pck_torso@0.2", "--model=cpm --epochs=4 --amp=auto"),
    Job("deeppose_tf", "alexnet", "lsp", "LSP", "test", "pcp_strict@0.5"),
    Job("deeppose_caffe_port", "deeppose_refine", "k2hpd", "K2HPD", "test", "pdj@0.5", programme="workflow.py run_all"),
    Job("deepercut_tf", "resnet50", "lsp", "LSP", "1001-1400", "pck_torso@0.2", score="--preset=smoke"),
    Job("simplebaseline_paddle", "resnet18", "mpii", "mpii", "valid", "pckh@0.5", "--epochs=18"),
    # OKS asks for joints within a few hundredths of the person's size: on held-out people that takes more training than
    # there is time for here, so this network learns a few pictures by heart and is scored on them
    Job(
        *("simplebaseline_paddle", "resnet18_96x64", "coco", "coco_few", "train", "oks_ap"),
        train="--boxes=annotated --augmentation=none --input_height=96 --input_width=64 --sigma=1.5 --batch_size=8 --lr=0.003 "
        "--epochs=90",
        score="--boxes=annotated --no-flip_test",
        count=40,
    ),
)
STAND_INS = (("coco", "coco"),)  # what no job needs, but a bare `python simplebaseline_paddle/val.py` does


def run(*words: str) -> None:
    """One of this repository's commands; SystemExit when it fails."""
    print("\n$ python " + " ".join(words), flush=True)
    code = subprocess.run([sys.executable, *words], cwd=ROOT).returncode
    if code:
        raise SystemExit(f"quickstart: {words[0]} ended with code {code}")


def prepare_data(name: str, folder: str, count: int | None = None) -> Path:
    """A synthetic data set, made if need be. Real data in data/ is left alone: the stand-in then goes below out/."""
    path = ROOT / "data" / folder
    if path.exists() and not (path / "SYNTHETIC").exists():
        path = OUT / "data" / folder
    if not (path / "SYNTHETIC").exists():
        run("-m", "common.datasets.synthetic", name, str(path), *([] if count is None else [f"--count={count}"]))
    return path


def figures(job: Job, data: Path) -> dict:
    """A row of the report: scores of the trained network and of both baselines."""
    from common import datasets
    from common.baselines import mean_pose
    from common.evaluate import score
    from common.importers import load_any

    train, test = (datasets.load(job.dataset, data, split) for split in (job.train_split, job.test_split))
    trained, random = (load_any(job.out / f"{name}.npz", test) for name in ("predictions", "random"))
    contact_sheet(job, test, trained)
    sources = {"score": trained, "mean pose": mean_pose(train, test), "random weights": random}
    totals = {name: score(test, found, [job.protocol])[job.protocol].total for name, found in sources.items()}
    # a network may be scored on what it was trained on, which must not pass for held-out
    shown = f"{job.dataset}, {'fitted' if job.train_split == job.test_split else 'held-out'}"
    about = {"house": job.house, "model": job.model, "dataset": shown, "protocol": job.protocol}
    return {**about, **totals, "n": len(test)}


def contact_sheet(job: Job, test, predictions, count: int = 12) -> None:
    """Truth and prediction side by side for persons spread over the test split, of those that were looked at."""
    import numpy as np

    from common import draw
    from common.images import read_image
    from common.importers import align_rows

    seen = set(zip(predictions.image_id.tolist(), predictions.person_id.tolist()))
    keys = zip(test.image_id.tolist(), test.person_id.tolist())
    test = test.select([i for i, key in enumerate(keys) if key in seen])
    aligned = align_rows(predictions, test)
    cells = []
    for row in np.linspace(0, len(test) - 1, count).astype(int):
        image = read_image(test.images[row])
        cells.append(draw.truth_and_prediction(image, test.joints[row], aligned.joints[row], test.skeleton, height=240))
    draw.save_image(OUT / f"{job.house}_{job.model}.png", draw.contact_sheet(cells, columns=3, cell=(480, 240)))


def report(rows: list[dict], minutes: float) -> None:
    """Print the table, and write it to report.md and report.json."""
    from common.crosscheck import quickstart_table
    from common.files import write_json, write_text

    needs = {"minutes": minutes, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    needs["largest_process_gb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    pictures = ", ".join(f"{row['house']}_{row['model']}.png" for row in rows)
    text = f"""# Quickstart: smoke presets on SYNTHETIC people

Scored on held-out persons, but where `fitted` is said: on the very pictures that were trained on.
Crops come from annotated boxes (oracle), but for deepercut_tf, which sees the whole picture.
These figures show that the whole chain works; they say nothing about photographs.

{quickstart_table({"rows": rows, **needs})}

Pictures: {pictures}
"""
    write_text(OUT / "report.md", text)
    write_json(OUT / "report.json", {"rows": rows, **needs})
    print("\n" + text)


def main() -> int:
    """Run the jobs of every house that is here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", metavar="HOUSE", help="these houses only")
    args = parser.parse_args()
    jobs = [job for job in JOBS if (ROOT / job.house).exists() and (not args.only or job.house in args.only)]
    if not jobs:
        print("quickstart: no such house", file=sys.stderr)
        return 2
    rows, started = [], time.monotonic()
    for job in jobs:
        began = time.monotonic()
        data = prepare_data(job.dataset, job.folder, job.count)
        for words in job.commands(data):
            run(*words)
        rows.append({**figures(job, data), "minutes": (time.monotonic() - began) / 60})
    for name, folder in () if args.only else STAND_INS:
        prepare_data(name, folder)
    report(rows, (time.monotonic() - started) / 60)
    return 0


if __name__ == "__main__":
    sys.exit(main())
