"""The CSV files that training reads, from the authors' releases.

    python deeppose_tf/prepare.py lsp                      # datasets/lsp_ext and datasets/lsp -> datasets/lsp_ext/*.csv
    python deeppose_tf/prepare.py mpii [--split_by image]  # datasets/mpii/mpii_human_pose_v1_u12_1.mat -> data.json, *.csv
    python deeppose_tf/prepare.py poses lspet ROOT 1-4000 train_joints.csv      # any data set of common.datasets with these joints
    python deeppose_tf/prepare.py lsp --synthetic [DIR]    # stand-ins: drawn people (or those drawn in DIR), CSVs, and random weights

Lines are `image,x0,y0,x1,y1,...`; LSP's missing coordinates (not above 0) are -1, each for itself, as in the original. Beside LSP's files
`*_visible.csv` keeps the flags that the original drops; mode correct reads them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402

from common.errors import DataError, DataMissing  # noqa: E402
from deeppose_tf.config import IMAGENET_WEIGHTS, LSP_ROOT, LSPET_ROOT, MPII_ROOT  # noqa: E402

RELEASE = "mpii_human_pose_v1_u12_1.mat"
COUNTS = {"lspet": 10000, "lsp": 2000}
TRAIN_IMAGES = 1000  # of LSP; half of a smaller set


def write_lines(path: Path, lines: list[str]) -> None:
    """A text file, whole or not at all."""
    from common.files import atomic_write

    atomic_write(path, lambda temporary: temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8"))


# ---- LSP and LSPET --------------------------------------------------------------------------------------------------------------


def lsp_table(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Either release's `joints` -> (N,14,2) coordinates and (N,14) usable. LSPET: (14,3,N), flag 1 = usable; LSP: (3,14,N), always usable.

    ValueError for another shape, as in the original.
    """
    if joints.ndim == 3 and joints.shape[:2] == (14, 3):
        table = joints.transpose(2, 0, 1)
        return table[..., :2], table[..., 2] > 0
    if joints.ndim == 3 and joints.shape[:2] == (3, 14):
        table = joints.transpose(2, 1, 0)
        return table[..., :2], np.ones(table.shape[:2], bool)
    raise ValueError(f"joints have shape {joints.shape}; (14, 3, N) or (3, 14, N) is needed")


def lsp_lines(images: list[Path], joints: np.ndarray, usable: np.ndarray, source: Path) -> list[tuple[str, str]]:
    """(line of joints, line of flags) of every image; the number in its name says which row is its."""
    lines = []
    for image in images:
        found = re.search(r"im(\d+)", image.stem)
        number = int(found[1]) - 1 if found else -1
        if not 0 <= number < len(joints):
            raise DataError(f"{image} has no row in {source}, which has {len(joints)}; names are im00001.jpg and so on")
        values = [repr(float(v)) if v > 0 else "-1" for v in joints[number].ravel()]
        lines.append((",".join([str(image), *values]), ",".join([str(image), *map(str, usable[number].astype(int))])))
    return lines


def prepare_lsp(lspet_images: Path, lspet_joints: Path | None, lsp_images: Path, lsp_joints: Path, out: Path, *, strict: bool = False,
                held_out: int = 0) -> dict[str, int]:  # fmt: skip
    """Write train_, train_lsp_small_ and test_joints.csv into `out`; {file: number of lines}.

    train = all of LSPET, then LSP's first 1000; test = the rest of LSP. `held_out` moves the last so many LSPET images to val_joints.csv.
    `lspet_joints` None leaves LSPET out (synthetic stand-in). DataError for missing or wrong files, with `strict` also for other counts.
    """
    from common.datasets.files import read_mat

    parts = {}
    for name, folder, file in (("lspet", lspet_images, lspet_joints), ("lsp", lsp_images, lsp_joints)):
        if file is None:
            parts[name] = []
            continue
        try:
            joints, usable = lsp_table(read_mat(file, "joints"))
        except ValueError as error:
            raise DataError(f"{file}: {error}") from error
        images = sorted(folder.glob("*.jpg"))
        if len(images) != COUNTS[name] and not (file.parent / "SYNTHETIC").exists():
            message = f"{folder} holds {len(images)} images, the release of {name} {COUNTS[name]}"
            if strict or not images:
                raise DataError(message + "; get it again")
            print(f"warning: {message}", file=sys.stderr)
        parts[name] = lsp_lines(images, joints, usable, file)
    first = TRAIN_IMAGES if len(parts["lsp"]) > TRAIN_IMAGES else len(parts["lsp"]) // 2
    if not 0 <= held_out < max(len(parts["lspet"]), 1):
        raise DataError(f"--held_out {held_out}: LSPET has {len(parts['lspet'])} images")
    kept = len(parts["lspet"]) - held_out
    files = {
        "train": parts["lspet"][:kept] + parts["lsp"][:first], "train_lsp_small": parts["lsp"][:first], "test": parts["lsp"][first:],
        **({"val": parts["lspet"][kept:]} if held_out else {}),
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        write_lines(out / f"{name}_visible.csv", [flags for _, flags in lines])
        write_lines(out / f"{name}_joints.csv", [joints for joints, _ in lines])
    return {f"{name}_joints.csv": len(lines) for name, lines in files.items()}


# ---- MPII -----------------------------------------------------------------------------------------------------------------------


def mpii_rows(mat: Path) -> list[dict]:
    """The original's data.json: a dict for every person with all 16 joints, in the release's order and frame (pixels from 1)."""
    from common.datasets.mpii_release import read_release

    persons = read_release(mat)
    persons = persons.select((persons.visible > 0).all(1))
    rows = []
    for i, name in enumerate(persons.image):
        seen = {str(k): int(persons.visible[i, k] == 2) for k in range(16)} if persons.flagged[i] else None
        rows.append({
            "filename": str(name), "train": int(persons.train[i]), "head_rect": persons.head_box[i].tolist(), "is_visible": seen,
            "joint_pos": {str(k): persons.joints[i, k].tolist() for k in range(16)},
        })  # fmt: skip
    return rows


def mpii_line(row: dict) -> str:
    """`file,x0,y0,...` by joint number."""
    return ",".join([row["filename"], *(repr(float(v)) for k in range(16) for v in row["joint_pos"][str(k)])])


def mpii_split(rows: list[dict], by: str = "person") -> tuple[np.ndarray, np.ndarray]:
    """(train, test) indices: a tenth of the persons, at random with the original's seed, is test. Two persons of one photograph can land on
    both sides; `by` = image puts whole photographs there."""
    from common.datasets.mpii_release import random_tenth

    if by == "person":
        return random_tenth(len(rows))
    images = list(dict.fromkeys(row["filename"] for row in rows))
    chosen = {images[i] for i in random_tenth(len(images))[1]}
    test = np.array([row["filename"] in chosen for row in rows], bool)
    return np.flatnonzero(~test), np.flatnonzero(test)


def prepare_mpii(mat: Path, out: Path, split_by: str = "person") -> str:
    """Write data.json, train_ and test_joints.csv into `out`; the original's printed counts."""
    rows = mpii_rows(mat)
    train, test = mpii_split(rows, split_by)
    out.mkdir(parents=True, exist_ok=True)
    write_lines(out / "data.json", [json.dumps(row) for row in rows])
    write_lines(out / "test_joints.csv", [mpii_line(rows[i]) for i in test])
    write_lines(out / "train_joints.csv", [mpii_line(rows[i]) for i in train])
    counts = {
        "N": len(rows),
        "N_train": len(train),
        "N_test": len(test),
        "train_indices": len(train),
        "test_indices": len(test),
    }
    return "\n".join(f"{name}:{count}" for name, count in counts.items())


# ---- any PoseSet, what is there by default, stand-ins ---------------------------------------------------------------------------


def prepare_poses(name: str, root: Path, split: str, out: Path) -> int:
    """A CSV of a split that `common.datasets` reads, for the data sets that have LSP's or MPII's joints; the number of persons."""
    from common import datasets
    from deeppose_tf.config import SKELETONS

    pose_set = datasets.load(name, root, split)
    if pose_set.skeleton not in SKELETONS.values():
        raise DataError(
            f"data set {name} has skeleton {pose_set.skeleton.name}; {', '.join(s.name for s in SKELETONS.values())} are trained here"
        )
    origin = datasets.record(name).origin  # MPII's CSVs count from 1
    missing = "-1" if origin == 0 else "-100500"
    lines = [
        ",".join([str(image), *(missing if np.isnan(v) else repr(float(v + origin)) for v in joints.ravel())])
        for image, joints in zip(pose_set.images, pose_set.joints)
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_lines(out, lines)
    if pose_set.synthetic:
        (out.parent / "SYNTHETIC").touch()
    return len(lines)


def ready_csv(path: Path, dataset_name: str) -> None:
    """Make sure that a CSV is there: a default one is made from the release, when that is there. DataMissing or DataError otherwise."""
    if path.is_file():
        return
    home = {"lsp": LSPET_ROOT, "mpii": MPII_ROOT}[dataset_name]
    if path.parent.resolve() != home.resolve():
        raise DataError(
            f"CSV {path} does not exist; write it with `python {ROOT / 'deeppose_tf/prepare.py'}` (--help), or give another one"
        )
    print(f"{path} is not there: preparing {dataset_name} from its release")
    prepare_default(dataset_name)
    if not path.is_file():
        raise DataError(f"CSV {path} is none of those that prepare.py makes; check its name")


def prepare_default(dataset_name: str) -> None:
    """Prepare a release where the original expects it. DataMissing when it is not there, DataError for real data mixed with synthetic."""
    from common.datasets.files import missing

    if dataset_name == "mpii":
        if not (MPII_ROOT / RELEASE).is_file():
            raise missing("mpii", MPII_ROOT, f"{RELEASE} and images/")
        print(prepare_mpii(MPII_ROOT / RELEASE, MPII_ROOT))
        return
    if not (LSP_ROOT / "joints.mat").is_file():
        raise missing("lsp", LSP_ROOT, "joints.mat and images/")
    drawn = [(LSP_ROOT / "SYNTHETIC").exists(), (LSPET_ROOT / "SYNTHETIC").exists()]
    lspet = LSPET_ROOT / "joints.mat" if (LSPET_ROOT / "joints.mat").is_file() else None
    if lspet is None and not drawn[0]:
        raise missing("lspet", LSPET_ROOT, "joints.mat and images/")
    if lspet and drawn[0] != drawn[1]:
        raise DataError(
            f"one of {LSP_ROOT} and {LSPET_ROOT} is SYNTHETIC, the other real; they are not mixed: move one away"
        )
    counts = prepare_lsp(LSPET_ROOT / "images", lspet, LSP_ROOT / "images", LSP_ROOT / "joints.mat", LSPET_ROOT)
    if drawn[0]:
        (LSPET_ROOT / "SYNTHETIC").touch()
    print(", ".join(f"{name}: {count}" for name, count in counts.items()))


def make_stand_ins(dataset_name: str, drawn: Path | None = None) -> None:
    """Synthetic people where there is no data (a link to the folder `drawn`, if given), and stand-in weights where there are none.

    Real data is left alone. DataError when `drawn` is no folder of synthetic data.
    """
    from common.datasets import synthetic
    from deeppose_tf.stand_in import write_stand_in

    root = {"lsp": LSP_ROOT, "mpii": MPII_ROOT}[dataset_name]
    if drawn and not (drawn / "SYNTHETIC").exists():
        raise DataError(
            f"--synthetic {drawn}: that folder has no file SYNTHETIC; draw it with `python -m common.datasets.synthetic {dataset_name}`"
        )
    if not root.exists():
        if drawn:
            root.parent.mkdir(parents=True, exist_ok=True)
            root.symlink_to(os.path.relpath(drawn.resolve(), root.parent.resolve()), target_is_directory=True)
        else:
            synthetic.make(dataset_name, root)
        print(f"synthetic {dataset_name} is in {root}")
    if not (root / "SYNTHETIC").exists():
        print(f"{root} holds real data: no stand-ins are made")
        return
    prepare_default(dataset_name)
    if not IMAGENET_WEIGHTS.exists():
        write_stand_in(IMAGENET_WEIGHTS)
        print(f"stand-in weights (random, no ImageNet in them): {IMAGENET_WEIGHTS}")


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    lsp = commands.add_parser("lsp", help="LSPET and LSP")
    for option, default in (("extended_lsp_images_dir", LSPET_ROOT / "images"), ("extended_lsp_joints_path", LSPET_ROOT / "joints.mat"),
                            ("small_lsp_images_dir", LSP_ROOT / "images"), ("small_lsp_joints_path", LSP_ROOT / "joints.mat"),
                            ("output_dir", LSPET_ROOT)):  # fmt: skip
        lsp.add_argument(f"--{option}", type=Path, default=default, help=f"(default: {default})")
    lsp.add_argument(
        "--strict_counts", action="store_true", help="an error unless there are 10000 and 2000 images (the original)"
    )
    lsp.add_argument(
        "--held_out", type=int, default=0, help="put the last N LSPET images into val_joints.csv instead of train"
    )
    mpii = commands.add_parser("mpii", help="MPII")
    mpii.add_argument("--mat", type=Path, default=MPII_ROOT / RELEASE, help=f"(default: {MPII_ROOT / RELEASE})")
    mpii.add_argument("--output_dir", type=Path, default=MPII_ROOT, help=f"(default: {MPII_ROOT})")
    mpii.add_argument(
        "--split_by", choices=("person", "image"), default="person", help="person: the original's split (default)"
    )
    for command in (lsp, mpii):
        command.add_argument(
            "--synthetic",
            nargs="?",
            const=True,
            metavar="DIR",
            help="make stand-ins for missing data (DIR: drawn there already)",
        )
    poses = commands.add_parser("poses", help="a split of common.datasets")
    for name, kind in (("name", str), ("root", Path), ("split", str), ("out", Path)):
        poses.add_argument(name, type=kind)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    if args.command == "poses":
        print(f"{prepare_poses(args.name, args.root, args.split, args.out)} persons: {args.out}")
    elif args.synthetic:
        make_stand_ins(args.command, None if args.synthetic is True else Path(args.synthetic))
    elif args.command == "mpii":
        if not args.mat.is_file():
            raise DataMissing(
                f"{args.mat} does not exist; get it from http://human-pose.mpi-inf.mpg.de, or use --synthetic"
            )
        print(prepare_mpii(args.mat, args.output_dir, args.split_by))
    elif args.small_lsp_joints_path == LSP_ROOT / "joints.mat" and not args.small_lsp_joints_path.exists():
        prepare_default("lsp")
    else:
        counts = prepare_lsp(args.extended_lsp_images_dir.absolute(), args.extended_lsp_joints_path, args.small_lsp_images_dir.absolute(),
                             args.small_lsp_joints_path, args.output_dir, strict=args.strict_counts, held_out=args.held_out)  # fmt: skip
        print(", ".join(f"{name}: {count}" for name, count in counts.items()))


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    try:
        run(parse_args(argv))
    except (DataError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
