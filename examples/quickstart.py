"""Driver of quickstart.sh: synthetic data -> train -> score -> picture -> out/quickstart/report.md.

Every network goes through the same three commands, train.py, val.py and predict.py, as a user would type them; nothing
here knows a framework. As many networks at a time as there are processors, four at most; what each command prints is in
out/quickstart/HOUSE/MODEL/log.txt. `--full` trains longer and also scores random weights.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)
OUT = ROOT / "out" / "quickstart"
CORES = len(os.sched_getaffinity(0))
AT_ONCE = min(CORES, 4)
THREADS = max(CORES // AT_ONCE, 1)  # of a network

TRAIN = (
    "{house}/train.py --preset smoke --dataset {dataset} --data_root {data} --train_split {train} --valid_split none"
    " --out {out}/run"
)
SCORE = (
    "{house}/val.py --weights {out}/run --dataset {dataset} --data_root {data} --split {test} --out {out}/{what}.npz"
)
PREDICT = "{house}/predict.py {picture} --weights {out}/run --out {out}/pictures"


@dataclass(frozen=True)
class Job:
    """One network of one house."""

    house: str
    model: str
    dataset: str
    train: str  # splits
    test: str
    protocol: str
    size: tuple[str, str]  # options that say how long to train: as usual, and with --full
    options: str = ""  # of train.py besides
    scoring: str = ""  # of val.py besides
    stages: tuple[str, ...] = ("",)  # a training each

    @property
    def name(self) -> str:
        return f"{self.house}/{self.model}"

    @property
    def shown(self) -> str:
        """The data set as the table names it; a network may be scored on what it was trained on, which must not pass
        for held-out."""
        return f"{self.dataset}, {'fitted' if self.train == self.test else 'held-out'}"


JOBS = (
    # First, as its figure and picture are there within a minute. OKS asks for joints within a few hundredths of the
    # person's size: on held-out people that takes more training than there is time for here, so this network learns a
    # few pictures by heart and is scored on them
    Job(
        "simplebaseline_paddle", "resnet18_96x64", "coco", "train", "train", "oks_ap", ("--epochs 64", "--epochs 120"),
        "--boxes annotated --no-augment --input_height 96 --input_width 64 --sigma 1.5 --batch_size 8 --lr 0.003"
        " --base_width 32 --limit 24",
        "--boxes annotated --no-flip_test --limit 24",
    ),
    # The longest ones come first
    Job("lpm_torch", "lpm", "penn_action", "train", "test", "pck_torso@0.2", ("--epochs 45", "--epochs 60"),
        "--model lpm"),
    Job("deepercut_tf", "resnet50", "lsp", "train", "test", "pck_torso@0.2", ("--max_steps 200", ""),
        scoring="--limit 200"),
    Job("lpm_torch", "cpm", "lsp", "train", "test", "pck_torso@0.2", ("--epochs 5", "--epochs 16"),
        "--model cpm --limit 200", "--limit 200"),
    Job(
        "deeppose_caffe_port", "deeppose_refine", "k2hpd", "train", "test", "pdj@0.5",
        ("--max_steps 250", ""), stages=("--stage 1", "--stage 2"),
    ),
    Job("deeppose_tf", "alexnet", "lsp", "train", "test", "pcp_strict@0.5", ("--max_steps 150", "--max_steps 300")),
    Job("simplebaseline_paddle", "resnet18", "mpii", "train", "valid", "pckh@0.5", ("--epochs 24", "--epochs 60"),
        "--limit 192"),
)  # fmt: skip
# where the houses look by default, if not in data/DATASET, and how many pictures (videos) are drawn
FOLDERS = {"lsp": "LSP", "penn_action": "PennAction", "k2hpd": "K2HPD"}
COUNTS = {"coco": 16, "lsp": 400, "mpii": 200, "penn_action": 16, "k2hpd": 500}
_drawing: dict[str, threading.Lock] = defaultdict(threading.Lock)


def run(command: str, log: Path) -> None:
    """Run one of the houses' commands, what it prints into `log`; SystemExit with the end of that when it fails."""
    print(f"$ python {command}", flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file:
        words = {"cwd": ROOT, "stdout": file, "stderr": subprocess.STDOUT}
        environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
        code = subprocess.run([sys.executable, *command.split()], env=environment, **words).returncode
    if code:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise SystemExit(f"{end}\nquickstart: {command.split()[0]} ended with code {code}; all it said: {log}")


def prepare_data(dataset: str, log: Path) -> Path:
    """A synthetic data set, made if need be, relative to the repository. Real data in data/ is left alone: the stand-in
    then goes below out/."""
    path = ROOT / "data" / FOLDERS.get(dataset, dataset)
    with _drawing[dataset]:
        if path.exists() and not (path / "SYNTHETIC").exists():
            path = OUT / "data" / path.name
        if not (path / "SYNTHETIC").exists():
            draw = f"-m common.datasets.synthetic {dataset} {path.relative_to(ROOT)} --count {COUNTS[dataset]}"
            run(draw, log)
    return path.relative_to(ROOT)


def work(job: Job, full: bool) -> dict:
    """Train, score, predict; returns the job's row of the report."""
    began, log = time.monotonic(), OUT / job.name / "log.txt"
    log.unlink(missing_ok=True)
    data = prepare_data(job.dataset, log)
    words = {"house": job.house, "dataset": job.dataset, "data": data, "train": job.train, "test": job.test}
    words |= {"out": (OUT / job.name).relative_to(ROOT), "what": "predictions"}
    threads = f"--threads {THREADS}"
    for stage in job.stages:
        run(f"{TRAIN.format(**words)} {threads} {job.size[full]} {job.options} {stage}", log)
    run(f"{SCORE.format(**words)} {threads} {job.scoring}", log)
    if full:
        run(f"{SCORE.format(**{**words, 'what': 'random'})} {threads} {job.scoring} --random_weights", log)
    row = {"house": job.house, "model": job.model, "dataset": job.shown, "protocol": job.protocol}
    found, picture = figures(job, data)
    run(f"{PREDICT.format(**words, picture=picture)} {threads}", log)
    row |= found | {"minutes": (time.monotonic() - began) / 60}
    sheet = (OUT / f"{job.house}_{job.model}.png").relative_to(ROOT)
    about = f"{job.protocol} {row['score']:.3g}, mean pose {row['mean pose']:.3g}"
    print(f"== {job.name}: {about}; {row['minutes']:.1f} minutes; {sheet}", flush=True)
    return row


def figures(job: Job, data: Path) -> tuple[dict, str]:
    """Scores of the trained network and of the baselines by the job's protocol, and one of the test's pictures."""
    from common import datasets
    from common.baselines import mean_pose
    from common.evaluate import score
    from common.importers import load_any

    test, train = (datasets.load(job.dataset, ROOT / data, split) for split in (job.test, job.train))
    limit = job.scoring.partition("--limit ")[2] or None
    test = test.limit(int(limit)) if limit else test
    sources = {"score": load_any(OUT / job.name / "predictions.npz", test), "mean pose": mean_pose(train, test)}
    if (OUT / job.name / "random.npz").exists():
        sources["random weights"] = load_any(OUT / job.name / "random.npz", test)
    contact_sheet(job, test, sources["score"])
    found = {name: score(test, given, [job.protocol])[job.protocol].total for name, given in sources.items()}
    return {**found, "n": len(test)}, str(test.images[0])


def contact_sheet(job: Job, test, predictions, count: int = 12) -> None:
    """Truth and prediction side by side, for persons spread over those of the test split that were looked at."""
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


COLUMNS = ("house", "model", "dataset", "n", "protocol", "score", "mean pose", "random weights", "minutes")


def summary(rows: list[dict], minutes: float) -> dict:
    """What report.json holds, a file of figures: the rows, and what the whole run needed."""
    names = [name for name in COLUMNS if any(name in row for row in rows)]
    shown = {"model": "network", "dataset": "synthetic", "n": "persons", "score": "trained"}
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return {
        "columns": [shown.get(name, name) for name in names],
        "rows": [[row.get(name) for name in names] for row in rows],
        "command": "bash examples/quickstart.sh",
        "note": f"{minutes:.1f} minutes on {len(os.sched_getaffinity(0))} cores, largest process {largest:.1f} GB,"
        f" Python {platform.python_version()}",
    }


def report(result: dict) -> str:
    """The table as Markdown."""
    from common.crosscheck import figures_table

    pictures = ", ".join(f"{row[0]}_{row[1]}.png" for row in result["rows"])
    return f"""# Quickstart: smoke presets on SYNTHETIC people

Scored on held-out persons, but where `fitted` is said: on the very pictures that were trained on.
Crops come from annotated boxes (oracle), but for deepercut_tf, which sees the whole picture.
These figures show that the whole chain works; they say nothing about photographs.

{figures_table(result)}

Pictures: {pictures}; joints.jsonl and a drawing of one more: HOUSE/MODEL/pictures/
"""


def main() -> int:
    """Run the jobs of every house that is here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", metavar="HOUSE", help="these houses only")
    parser.add_argument("--full", action="store_true", help="train longer, and score random weights too")
    args = parser.parse_args()
    jobs = [job for job in JOBS if (ROOT / job.house).exists() and (not args.only or job.house in args.only)]
    if not jobs:
        print("quickstart: no such house", file=sys.stderr)
        return 2
    started = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = [pool.submit(work, job, args.full) for job in jobs]
        try:
            rows = [one.result() for one in waiting]
        finally:
            pool.shutdown(cancel_futures=True)
    result = summary(rows, (time.monotonic() - started) / 60)
    text = report(result)
    (OUT / "report.md").write_text(text)
    (OUT / "report.json").write_text(json.dumps(result, indent=2) + "\n")
    print("\n" + text)
    if not args.only:  # the networks that come with the repository, on one of its drawn people
        data = prepare_data("lsp", OUT / "log.txt")
        picture = next(iter(sorted((ROOT / data / "images").glob("*.jpg"))))
        subprocess.run(["bash", "examples/predict_photo.sh", picture.relative_to(ROOT)], cwd=ROOT)
        print("A picture of your own: bash examples/predict_photo.sh photo.jpg --boxes x,y,w,h")
    return 0


if __name__ == "__main__":
    sys.exit(main())
