"""Speed of the metrics and loaders against the obvious peer, in the same run.

    python tests/bench/metrics.py metrics|datasets [--persons N] [--runs R] [--json OUT]

metrics: PCP and PCK against loops over persons and joints, written as the originals write them; OKS-NMS against its
loop; COCO AP against pycocotools alone on the same result list. datasets: the loaders against reading the same files
person by person. The table says whether both sides gave the same answer; exit code 1 where they did not.
"""

from __future__ import annotations

import json
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from tests.bench.harness import options, run, take_turns
from tests.reference import metrics as loops

COLUMNS = ["what", "CPU seconds", "peer", "peer's CPU seconds", "ratio", "same answer"]


def compare(name: str, ours, peer, peer_name: str, runs: int) -> list:
    """A row of the table: both timed in turn, and whether the answers agree to 1e-9."""
    same = bool(np.allclose(ours(), peer(), rtol=1e-9, atol=1e-9, equal_nan=True))
    seconds = take_turns({"ours": ours, "peer": peer}, runs)
    fast, slow = seconds["ours"], seconds["peer"]
    return [name, fast, peer_name, slow, slow / fast, "yes" if same else "NO"]


def bench_metrics(args: Namespace) -> dict:
    """PCP, PCK, OKS-NMS and COCO AP on random persons (default: 3000)."""
    persons = args.persons or 3000
    rows = [*limbs(persons, args.runs), _nms(persons, args.runs), _coco(persons, args.runs)]
    return {"columns": COLUMNS, "rows": rows}


def _random_people(persons: int, joints: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Truth (N,J,2) float64 and a prediction some pixels off."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, 200, (persons, joints, 2))
    return truth, truth + rng.normal(0, 20, truth.shape)


def limbs(persons: int, runs: int) -> list[list]:
    """PCK and PCP."""
    from common.metrics import pck, pcp
    from common.skeletons import LSP14

    truth, predicted = _random_people(persons, len(LSP14))
    labelled = np.ones((persons, len(LSP14)), bool)
    ends = [(LSP14.indices(a), LSP14.indices(b)) for _, a, b in pcp.sticks_of(LSP14).values()]

    def our_pck():
        size = pck.length_between(truth, LSP14, "left_shoulder", "right_hip")
        return list(pck.pck(truth, predicted, labelled, size, 0.2, LSP14).values.values())

    def our_pcp():
        return list(pcp.pcp(truth, predicted, labelled, LSP14).groups.values())

    peer_pck, peer_pcp = (
        lambda: loops.loop_pck(truth, predicted, 9, 2, 0.2),
        lambda: loops.loop_pcp(truth, predicted, ends, 0.5),
    )
    return [
        compare(f"PCK@0.2, {persons} persons", our_pck, peer_pck, "loop over persons and joints", runs),
        compare(f"PCP@0.5, {persons} persons", our_pcp, peer_pcp, "loop over persons and sticks", runs),
    ]


def _nms(persons: int, runs: int) -> list:
    from common.metrics.oks import COCO_SIGMAS, oks_nms

    count = min(persons, 100)
    _, joints = _random_people(count, len(COCO_SIGMAS))
    joints[1::2] = joints[::2][: count // 2] + 1.0
    score, area = np.linspace(1, 0.1, count), np.full(count, 40000.0)

    def ours():
        return oks_nms(joints, score, area, 0.9)

    def peer():
        return loops.loop_nms(joints, score, area, 0.9, COCO_SIGMAS)

    return compare(f"OKS-NMS, {count} persons in one image", ours, peer, "loop over pairs", runs)


def random_coco(persons: int, seed: int = 0):
    """A PoseSet of `persons` COCO persons, about five an image, and Predictions a few pixels off with some false
    ones."""
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


def _coco(persons: int, runs: int) -> list:
    from common.metrics.coco import coco_results, oks_ap
    from tests.reference.pycoco import ground_truth, score_results

    pose_set, predictions = random_coco(persons)
    results = coco_results(predictions)
    truth = ground_truth(pose_set, {r["image_id"] for r in results})

    def ours():
        return list(oks_ap(pose_set, predictions).values())

    def peer():
        return list(score_results(truth, json.loads(json.dumps(results))).values())

    name = f"COCO AP with rescoring and OKS-NMS, {persons} persons"
    return compare(name, ours, peer, "pycocotools alone on the finished result list", runs)


def bench_datasets(args: Namespace) -> dict:
    """MPII JSON and LSPET joints.mat of random persons (default: 10000), written to a temporary folder."""
    from common import datasets

    persons, rows = args.persons or 10000, []
    with tempfile.TemporaryDirectory() as folder:
        mpii, lspet = Path(folder) / "mpii" / "valid.json", Path(folder) / "lspet" / "joints.mat"
        _write_mpii(mpii, persons)
        _write_lspet(lspet, persons)
        for name, dataset, split, path, peer in (
            ("MPII JSON", "mpii", "valid", mpii, loops.loop_mpii),
            ("LSPET joints.mat", "lspet", "all", lspet, loops.loop_lspet),
        ):

            def ours(dataset=dataset, split=split, path=path):
                return datasets.load(dataset, path.parent, split).joints

            def theirs(peer=peer, path=path):
                return peer(path)

            what = f"{name}, {persons} persons"
            rows.append(compare(what, ours, theirs, "loop over persons and joints", args.runs))
    return {"columns": COLUMNS, "rows": rows}


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


def _write_lspet(path: Path, persons: int) -> None:
    import scipy.io

    joints, _ = _random_people(persons, 14)
    flag = np.random.default_rng(1).integers(0, 2, (persons, 14, 1))
    path.parent.mkdir()
    scipy.io.savemat(path, {"joints": np.concatenate([joints, flag], -1).transpose(1, 2, 0)})


def main(argv: list[str] | None = None) -> int:
    """Entry point; 1 when an answer differs from its peer's."""
    words = sys.argv[1:] if argv is None else argv
    parser = options(__doc__, tuple(PARTS), runs=7)
    parser.add_argument("--persons", type=int, help="default: 3000 (metrics), 10000 (datasets)")
    args = parser.parse_args(words)
    if args.persons is not None and args.persons < 2:
        parser.error("--persons must be at least 2")
    answers: list[str] = []

    def noted(part):
        def measure(args: Namespace) -> dict:
            result = part(args)
            answers.extend(row[-1] for row in result["rows"])
            return result

        return measure

    code = run(args, {name: noted(part) for name, part in PARTS.items()}, words, __file__)
    return code or int("NO" in answers)


PARTS = {"metrics": bench_metrics, "datasets": bench_datasets}

if __name__ == "__main__":
    sys.exit(main())
