"""Speed against the obvious peer, in the same run: `python tests/bench/harness.py metrics|datasets [--persons N] [--runs R] [--json OUT]`.

metrics: PCP and PCK against loops over persons and joints, written as the originals write them; OKS-NMS against its loop; COCO AP against
pycocotools alone on the same result list. datasets: the loaders against reading the same files person by person.
Each side runs R times in turn; the table has the medians of the process's CPU seconds (wall time says little on a busy machine), their
ratio, and whether both gave the same answer.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def compare(name: str, ours: Callable[[], object], peer: Callable[[], object], peer_name: str, runs: int) -> dict:
    """CPU seconds of both, run in turn `runs` times after one untimed call each; `same` says whether the answers agree to 1e-9."""
    same = bool(np.allclose(ours(), peer(), rtol=1e-9, atol=1e-9, equal_nan=True))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for call, record in zip((ours, peer), times):
            start = time.process_time()
            call()
            record.append(time.process_time() - start)
    fast, slow = (statistics.median(t) for t in times)
    return {
        "name": name,
        "peer": peer_name,
        "seconds": fast,
        "peer_seconds": slow,
        "ratio": slow / fast,
        "runs": runs,
        "same": same,
    }


def bench_metrics(persons: int, runs: int) -> list[dict]:
    """PCP, PCK, OKS-NMS and COCO AP on `persons` random persons."""
    return [*_bench_limbs(persons, runs), _bench_nms(persons, runs), _bench_coco(persons, runs)]


def _random_people(persons: int, joints: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Truth (N,J,2) float64 and a prediction some pixels off."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, 200, (persons, joints, 2))
    return truth, truth + rng.normal(0, 20, truth.shape)


def _bench_limbs(persons: int, runs: int) -> list[dict]:
    from common.metrics import pck, pcp
    from common.skeletons import LSP14

    truth, predicted = _random_people(persons, len(LSP14))
    labelled = np.ones((persons, len(LSP14)), bool)

    def our_pck():
        size = pck.length_between(truth, LSP14, "left_shoulder", "right_hip")
        return list(pck.pck(truth, predicted, labelled, size, 0.2, LSP14).values.values())

    def our_pcp():
        return list(pcp.pcp(truth, predicted, labelled, LSP14).groups.values())

    ends = [(LSP14.indices(a), LSP14.indices(b)) for _, a, b in pcp.sticks_of(LSP14).values()]
    return [
        compare(
            f"PCK@0.2, {persons} persons",
            our_pck,
            lambda: loop_pck(truth, predicted, 9, 2, 0.2),
            "loop over persons and joints",
            runs,
        ),
        compare(
            f"PCP@0.5, {persons} persons",
            our_pcp,
            lambda: loop_pcp(truth, predicted, ends, 0.5),
            "loop over persons and sticks",
            runs,
        ),
    ]


def loop_pck(truth: np.ndarray, predicted: np.ndarray, first: int, second: int, threshold: float) -> list[float]:
    """PCK by joint in percent, one person and one joint at a time; normaliser = distance between joints `first` and `second`."""
    hits = [0] * truth.shape[1]
    for i in range(len(truth)):
        size = np.linalg.norm(truth[i, first] - truth[i, second])
        for j in range(truth.shape[1]):
            if np.linalg.norm(truth[i, j] - predicted[i, j]) <= threshold * size:
                hits[j] += 1
    return [100.0 * h / len(truth) for h in hits]


def loop_pcp(
    truth: np.ndarray, predicted: np.ndarray, ends: list[tuple[list[int], list[int]]], threshold: float
) -> list[float]:
    """Strict PCP by stick in percent, one person and one stick at a time; a stick's end is the middle of the joints listed for it."""
    hits = [0] * len(ends)
    for i in range(len(truth)):
        for k, (first, second) in enumerate(ends):
            a, b = truth[i][first].mean(0), truth[i][second].mean(0)
            length = np.linalg.norm(a - b)
            off_a = np.linalg.norm(a - predicted[i][first].mean(0)) / length
            off_b = np.linalg.norm(b - predicted[i][second].mean(0)) / length
            if off_a <= threshold and off_b <= threshold:
                hits[k] += 1
    return [100.0 * h / len(truth) for h in hits]


def _bench_nms(persons: int, runs: int) -> dict:
    from common.metrics.oks import COCO_SIGMAS, oks_nms

    count = min(persons, 100)
    _, joints = _random_people(count, len(COCO_SIGMAS))
    joints[1::2] = joints[::2][: count // 2] + 1.0
    score, area = np.linspace(1, 0.1, count), np.full(count, 40000.0)
    return compare(
        f"OKS-NMS, {count} persons in one image",
        lambda: oks_nms(joints, score, area, 0.9),
        lambda: loop_nms(joints, score, area, 0.9, COCO_SIGMAS),
        "loop over pairs",
        runs,
    )


def loop_nms(
    joints: np.ndarray, score: np.ndarray, area: np.ndarray, threshold: float, sigmas: np.ndarray
) -> list[int]:
    """OKS-NMS one pair at a time."""
    order, keep = list(np.argsort(score, kind="stable")[::-1]), []
    while order:
        best = order.pop(0)
        keep.append(best)
        rest = []
        for other in order:
            squared = ((joints[best] - joints[other]) ** 2).sum(-1)
            overlap = np.exp(
                -squared / ((2 * sigmas) ** 2 * ((area[best] + area[other]) / 2 + np.spacing(1)) * 2)
            ).sum() / len(sigmas)
            if overlap <= threshold:
                rest.append(other)
        order = rest
    return keep


def random_coco(persons: int, seed: int = 0):
    """A PoseSet of `persons` COCO persons, about five an image, and Predictions a few pixels off with some false ones."""
    from common.poses import PoseSet, box_of_joints
    from common.predictions import predictions_for
    from common.skeletons import COCO17

    rng = np.random.default_rng(seed)
    size = rng.uniform(40, 300, persons)
    joints = rng.uniform(0, 1, (persons, len(COCO17), 2)) * size[:, None, None] + rng.uniform(0, 300, (persons, 1, 2))
    visible = rng.integers(0, 3, joints.shape[:2]).astype(np.int8)
    box, area = box_of_joints(joints), 0.5 * size**2
    joints[visible == 0] = np.nan
    pose_set = PoseSet(
        name="coco",
        skeleton=COCO17,
        split="random",
        images=[""] * persons,
        image_id=rng.integers(1, persons // 5 + 2, persons),
        person_id=np.arange(1, persons + 1),
        joints=joints,
        visible=visible,
        box=box,
        area=area,
    )
    guess = np.where(np.isnan(joints), 0, joints) + rng.normal(0, 0.04, joints.shape) * size[:, None, None]
    guess[:: max(persons // 50, 2)] += 500
    return pose_set, predictions_for(pose_set, guess, rng.uniform(0, 1, visible.shape))


def _bench_coco(persons: int, runs: int) -> dict:
    from common.metrics.coco import coco_results, ground_truth, oks_ap, score_results

    pose_set, predictions = random_coco(persons)
    results = coco_results(predictions)
    truth = ground_truth(pose_set, {r["image_id"] for r in results})
    return compare(
        f"COCO AP with rescoring and OKS-NMS, {persons} persons",
        lambda: list(oks_ap(pose_set, predictions).values()),
        lambda: list(score_results(truth, json.loads(json.dumps(results))).values()),
        "pycocotools alone on the finished result list",
        runs,
    )


def bench_datasets(persons: int, runs: int) -> list[dict]:
    """MPII JSON and LSPET joints.mat of `persons` persons, written to a temporary folder."""
    from common import datasets

    with tempfile.TemporaryDirectory() as folder:
        mpii, lspet = Path(folder) / "mpii", Path(folder) / "lspet"
        _write_mpii(mpii / "valid.json", persons)
        _write_lspet(lspet / "joints.mat", persons)
        return [
            compare(
                f"MPII JSON, {persons} persons",
                lambda: datasets.load("mpii", mpii, "valid").joints,
                lambda: loop_mpii(mpii / "valid.json"),
                "loop over persons and joints",
                runs,
            ),
            compare(
                f"LSPET joints.mat, {persons} persons",
                lambda: datasets.load("lspet", lspet, "all").joints,
                lambda: loop_lspet(lspet / "joints.mat"),
                "loop over persons and joints",
                runs,
            ),
        ]


def _write_mpii(path: Path, persons: int) -> None:
    joints, _ = _random_people(persons, 16)
    people = [
        {
            "image": f"{i:09d}.jpg",
            "scale": 1.0,
            "center": [100.0, 100.0],
            "joints": (1 + j).tolist(),
            "joints_vis": [1] * 16,
        }
        for i, j in enumerate(joints)
    ]
    path.parent.mkdir()
    path.write_text(json.dumps(people), encoding="utf-8")


def loop_mpii(path: Path) -> np.ndarray:
    """(N,16,2) joints counted from 0, one value at a time."""
    out = []
    for person in json.loads(path.read_text(encoding="utf-8")):
        row = np.zeros((16, 2))
        for j in range(16):
            row[j] = (
                [np.nan, np.nan]
                if not person["joints_vis"][j]
                else [person["joints"][j][0] - 1, person["joints"][j][1] - 1]
            )
        out.append(row)
    return np.array(out)


def _write_lspet(path: Path, persons: int) -> None:
    import scipy.io

    joints, _ = _random_people(persons, 14)
    flag = np.random.default_rng(1).integers(0, 2, (persons, 14, 1))
    path.parent.mkdir()
    scipy.io.savemat(path, {"joints": np.concatenate([joints, flag], -1).transpose(1, 2, 0)})


def loop_lspet(path: Path) -> np.ndarray:
    """(N,14,2) joints, unusable ones NaN, one value at a time."""
    import scipy.io

    stored = scipy.io.loadmat(path)["joints"]
    out = []
    for i in range(stored.shape[2]):
        row = np.zeros((14, 2))
        for j in range(14):
            row[j] = [stored[j, 0, i], stored[j, 1, i]] if stored[j, 2, i] == 1 else [np.nan, np.nan]
        out.append(row)
    return np.array(out)


def table(rows: list[dict]) -> str:
    """The measurements as a Markdown table."""
    lines = ["| what | CPU seconds | peer | peer's CPU seconds | ratio | same answer |", "|---|---|---|---|---|---|"]
    for r in rows:
        same = "yes" if r["same"] else "NO"
        lines.append(
            f"| {r['name']} | {r['seconds']:.4f} | {r['peer']} | {r['peer_seconds']:.4f} | {r['ratio']:.1f} | {same} |"
        )
    return "\n".join(lines)


def figures(rows: list[dict], command: str) -> dict:
    """The measurements as `common.readmes` puts them into a README: `columns`, `rows`, `command`, `note`."""
    columns = ["what", "CPU seconds", "peer", "peer's CPU seconds", "ratio", "same answer"]
    cells = [
        [r["name"], r["seconds"], r["peer"], r["peer_seconds"], r["ratio"], "yes" if r["same"] else "NO"] for r in rows
    ]
    note = f"medians of {rows[0]['runs']} runs of both sides in turn, CPU time of one process; numpy {np.__version__}, {platform.machine()}"
    return {"command": command, "note": note, "columns": columns, "rows": cells}


def main(argv=None) -> int:
    """Entry point; 1 when an answer differs from its peer's."""
    parser = argparse.ArgumentParser(
        prog="python tests/bench/harness.py", description="Speed of the metrics and loaders against the obvious peer."
    )
    parser.add_argument("what", choices=("metrics", "datasets"))
    parser.add_argument("--persons", type=int, default=None, help="default: 3000 (metrics), 10000 (datasets)")
    parser.add_argument("--runs", type=int, default=7, help="timed runs of each side (default 7)")
    parser.add_argument("--json", metavar="OUT", help="also write the measurements to this file")
    args = parser.parse_args(argv)
    if args.runs < 1 or (args.persons is not None and args.persons < 2):
        parser.error("--runs must be at least 1 and --persons at least 2")
    run, default = {"metrics": (bench_metrics, 3000), "datasets": (bench_datasets, 10000)}[args.what]
    rows = run(args.persons or default, args.runs)
    print(table(rows))
    if args.json:
        from common.files import write_json

        write_json(
            args.json,
            figures(
                rows,
                f"python tests/bench/harness.py {args.what} --persons {args.persons or default} --runs {args.runs}",
            ),
        )
    return 0 if all(r["same"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
