"""Driver of occlusion_lpm_vs_cpm.sh: data -> two trainings a seed -> PCK by visibility -> result.json and plot.png."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

MODELS = ("lpm", "cpm")
KINDS = {"occluded": 1, "visible": 2}  # values of PoseSet.visible
THRESHOLDS = tuple(k / 100 for k in range(2, 41, 2))
HEADLINE = 0.2


def parse_args(argv=None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out",
        default=str(ROOT / "out" / "occlusion"),
        help="folder of data, checkpoints and results (default: out/occlusion)",
    )
    parser.add_argument(
        "--videos", type=int, default=48, help="synthetic videos, half of them for testing (default: 48)"
    )
    parser.add_argument("--epochs", type=int, default=40, help="epochs of each training (default: 40)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one pair of trainings each (default: 0)")
    parser.add_argument(
        "--preset", default="smoke", help="preset of train.py, the same for both networks (default: smoke)"
    )
    parser.add_argument("--limit", type=int, help="train and score on the first N clips only (a dry run)")
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
    folder = work / f"seed_{seed}"
    limit = [f"--limit={args.limit}"] if args.limit else []
    data = f"--data_dir={work / 'data'}"
    began = time.monotonic()
    run(
        "lpm_torch/train.py", f"--model={model}", data, f"--preset={args.preset}", f"--max_epochs={args.epochs}", f"--seed={seed}",
        f"--model_dir={folder}", f"--log_dir={folder / 'logs'}", "--resume=auto", *limit,
    )  # fmt: skip
    seconds = time.monotonic() - began
    predictions = folder / f"{model}.npz"
    run(
        "lpm_torch/val.py",
        f"--model={model}",
        data,
        "--split=test",
        f"--model_dir={folder}",
        f"--out={predictions}",
        *limit,
    )
    return {
        "model": model,
        "seed": seed,
        "train_seconds": round(seconds, 1),
        **pck_by_visibility(work / "data" / "PennAction", predictions),
    }


def pck_by_visibility(root: Path, path: Path) -> dict:
    """PCK (box-normalised) of a prediction file over occluded and over visible joints: number of joints and percent at each threshold."""
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
        panel.set(
            title=f"{kind} joints (n = {runs[0][kind]['joints']})",
            xlabel="threshold (share of the person box)",
            xlim=(0, THRESHOLDS[-1]),
        )
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("PCK in percent")
    panels[0].legend(title="SYNTHETIC video")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def summary(runs: list[dict]) -> dict:
    """Mean PCK at the headline threshold by network and kind of joint, and LPM minus CPM."""
    at = THRESHOLDS.index(HEADLINE)

    def mean(model: str, kind: str) -> float | None:
        values = [r[kind]["pck"][at] for r in runs if r["model"] == model]
        return None if None in values else round(sum(values) / len(values), 2)

    means = {kind: {model: mean(model, kind) for model in MODELS} for kind in KINDS}
    differences = {kind: None if None in m.values() else round(m["lpm"] - m["cpm"], 2) for kind, m in means.items()}
    return {f"pck_box@{HEADLINE:g}": means, "lpm minus cpm": differences}


def table(runs: list[dict]) -> tuple[list[str], list[list]]:
    """(columns, rows) for the README: one row a network and seed, PCK at the headline threshold by kind of joint."""
    at = THRESHOLDS.index(HEADLINE)
    columns = [
        "network",
        "seed",
        *(f"PCK@{HEADLINE:g}, {kind} joints (n = {runs[0][kind]['joints']})" for kind in KINDS),
        "training, s",
    ]
    return columns, [[r["model"], r["seed"], *(r[kind]["pck"][at] for kind in KINDS), r["train_seconds"]] for r in runs]


def main(argv=None) -> int:
    """Train, score, write result.json and plot.png."""
    args = parse_args(argv)
    out, work = (
        Path(args.out).absolute(),
        ROOT / "out" / "occlusion" / f"{args.preset}_{args.videos}_{args.epochs}_{args.limit or 'all'}",
    )
    run("-m", "common.datasets.synthetic", "penn_action", work / "data" / "PennAction", f"--count={args.videos}")
    runs = [train_and_score(args, work, model, seed) for seed in args.seeds for model in MODELS]
    command = "bash examples/occlusion_lpm_vs_cpm.sh " + " ".join(sys.argv[1:])
    settings = {k: v for k, v in vars(args).items() if k != "out"}
    columns, rows = table(runs)
    result = {
        "command": command.strip(),
        "note": "SYNTHETIC video, oracle boxes; the same clips, number of updates and width for both",
        "columns": columns,
        "rows": rows,
        "data": "SYNTHETIC Penn Action",
        "budget": "same clips, epochs, batch size and width; train_seconds as measured",
        "settings": settings,
        "thresholds": THRESHOLDS,
        "summary": summary(runs),
        "runs": runs,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    plot(out / "plot.png", runs)
    print(json.dumps(result["summary"], indent=1))
    print(f"results: {out / 'result.json'}, {out / 'plot.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
