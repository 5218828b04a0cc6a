"""Driver of occlusion_lpm_vs_cpm.sh: data -> two trainings a seed -> PCK by visibility -> result.json and plot.png."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from common.crosscheck import figures_table  # noqa: E402
from common.files import write_json  # noqa: E402

MODELS = ("lpm", "cpm")
KINDS = {"occluded": 1, "visible": 2}  # values of PoseSet.visible
THRESHOLDS = tuple(k / 100 for k in range(2, 41, 2))
HEADLINE = 0.2


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--out", type=Path, default=ROOT / "out" / "occlusion", help="folder of the results")
    add("--videos", type=int, default=48, help="synthetic videos, half of them for testing")
    add("--epochs", type=int, default=40, help="epochs of each training")
    add("--seeds", type=int, nargs="+", default=[0], help="one pair of trainings each")
    add("--preset", default="smoke", help="preset of train.py, the same for both networks")
    add("--limit", type=int, help="train and score on the first N frames only (a dry run)")
    return parser.parse_args(argv)


def run(*words: object) -> None:
    """One of this repository's commands; SystemExit when it fails."""
    command = [sys.executable, *map(str, words)]
    print("\n$ python " + " ".join(command[1:]), flush=True)
    code = subprocess.run(command, cwd=ROOT).returncode
    if code:
        raise SystemExit(code)


def train_and_score(args: argparse.Namespace, work: Path, model: str, seed: int) -> dict:
    """Train one network and score it on the held-out videos."""
    folder, predictions = work / f"seed_{seed}" / model, work / f"seed_{seed}" / f"{model}.npz"
    data = [f"--data_root={work / 'data'}", *([f"--limit={args.limit}"] if args.limit else [])]
    schedule = [f"--preset={args.preset}", f"--epochs={args.epochs}", f"--seed={seed}", "--resume"]
    began = time.monotonic()
    run("lpm_torch/train.py", f"--model={model}", *data, *schedule, f"--out={folder}")
    seconds = round(time.monotonic() - began, 1)
    run("lpm_torch/val.py", *data, f"--weights={folder}", "--split=test", f"--out={predictions}")
    found = pck_by_visibility(work / "data", predictions)
    return {"model": model, "seed": seed, "train_seconds": seconds, **found}


def pck_by_visibility(root: Path, path: Path) -> dict:
    """PCK (box-normalised) of a prediction file over occluded and over visible joints: number of joints and percent at
    each threshold."""
    import numpy as np

    from common.datasets import load
    from common.metrics import pck
    from common.predictions import load_predictions

    people, found = load("penn_action", root, "test"), load_predictions(path)
    row_of = {name: i for i, name in enumerate(people.image_id.tolist())}
    people = people.select([row_of[name] for name in found.image_id.tolist()])
    size, result = pck.longer_side(people.box), {}
    for kind, value in KINDS.items():
        counted = people.visible == value
        totals = [pck.pck(people.joints, found.joints, counted, size, t, people.skeleton).total for t in THRESHOLDS]
        result[kind] = {"joints": int(counted.sum()), "pck": [None if np.isnan(t) else round(t, 3) for t in totals]}
    return result


def plot(path: Path, runs: list[dict]) -> None:
    """PCK curves, one panel for occluded and one for visible joints; thin lines are seeds, the thick one their mean."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    figure, panels = plt.subplots(1, len(KINDS), figsize=(9, 4), sharey=True)
    for panel, kind in zip(panels, KINDS):
        for model, color in zip(MODELS, ("tab:blue", "tab:orange")):
            curves = np.array([r[kind]["pck"] for r in runs if r["model"] == model], float)
            panel.plot(THRESHOLDS, curves.T, color=color, alpha=0.3, linewidth=1)
            panel.plot(THRESHOLDS, curves.mean(0), color=color, linewidth=2, label=model.upper())
        panel.set(title=f"{kind} joints (n = {runs[0][kind]['joints']})", xlim=(0, THRESHOLDS[-1]))
        panel.set_xlabel("threshold (share of the person box)")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("PCK in percent")
    panels[0].legend(title="SYNTHETIC video")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(argv=None) -> int:
    """Train, score, write result.json (a table for the README, and the curves) and plot.png."""
    args = parse_args(argv)
    work = ROOT / "out" / "occlusion" / f"{args.preset}_{args.videos}_{args.epochs}_{args.limit or 'all'}"
    run("-m", "common.datasets.synthetic", "penn_action", work / "data", f"--count={args.videos}")
    runs = [train_and_score(args, work, model, seed) for seed in args.seeds for model in MODELS]
    at = THRESHOLDS.index(HEADLINE)
    headings = [f"PCK@{HEADLINE:g}, {kind} joints (n = {runs[0][kind]['joints']})" for kind in KINDS]
    result = {
        "command": " ".join(["bash examples/occlusion_lpm_vs_cpm.sh", *sys.argv[1:]]),
        "note": "SYNTHETIC video, oracle boxes; the same clips, number of updates and width for both",
        "columns": ["network", "seed", *headings, "training, s"],
        "rows": [[r["model"], r["seed"], *(r[k]["pck"][at] for k in KINDS), r["train_seconds"]] for r in runs],
        "settings": {name: value for name, value in vars(args).items() if name != "out"},
        "thresholds": THRESHOLDS,
        "runs": runs,
    }
    write_json(args.out / "result.json", result)
    plot(args.out / "plot.png", runs)
    print(figures_table(result))
    print(f"results: {args.out / 'result.json'}, {args.out / 'plot.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
