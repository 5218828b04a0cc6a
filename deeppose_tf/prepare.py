"""The CSV files of the original, from the authors' releases; training makes the default ones itself.

    python deeppose_tf/prepare.py lsp                      # datasets/lsp_ext and datasets/lsp -> datasets/lsp_ext/*.csv
    python deeppose_tf/prepare.py mpii [--split_by image]  # datasets/mpii/mpii_human_pose_v1_u12_1.mat -> data.json, *.csv
    python deeppose_tf/prepare.py lsp --synthetic [DIR]    # stand-ins: drawn people (or those drawn in DIR), CSVs, and random weights

Lines are `image,x0,y0,x1,y1,...`; LSP's missing coordinates (not above 0) are -1, each for itself, as in the original.
Beside LSP's files `*_visible.csv` keeps the flags that the original drops; mode correct reads them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder's data.py must not shadow other modules

import numpy as np

from common.errors import DataError, DataMissing
from common.files import atomic_write, sha256_of, write_json
from common.runs.converting import card_path
from common.runs.process import exit_code
from deeppose_tf.config import CSV_FOLDERS, IMAGENET_WEIGHTS, LSP_ROOT, LSPET_ROOT, MPII_ROOT, SMOKE

RELEASE = "mpii_human_pose_v1_u12_1.mat"
COUNTS = {"lspet": 10000, "lsp": 2000}
TRAIN_IMAGES = 1000  # of LSP; half of a smaller set


def write_lines(path: Path, lines: list[str]) -> None:
    """A text file, whole or not at all."""
    atomic_write(path, lambda temporary: temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8"))


def lsp_table(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Either release's `joints` -> (N,14,2) coordinates and (N,14) usable. LSPET: (14,3,N), flag 1 = usable; LSP:
    (3,14,N), always usable.

    DataError for another shape.
    """
    if joints.ndim != 3 or joints.shape[:2] not in ((14, 3), (3, 14)):
        raise DataError(f"joints have shape {joints.shape}; (14, 3, N) or (3, 14, N) is needed; get the release again")
    extended = joints.shape[0] == 14
    table = joints.transpose(2, 0, 1) if extended else joints.transpose(2, 1, 0)
    return table[..., :2], table[..., 2] > 0 if extended else np.ones(table.shape[:2], bool)


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


def prepare_lsp(
    lspet: tuple[Path, Path] | None, lsp: tuple[Path, Path], out: Path, strict: bool = False, held_out: int = 0
):
    """Write train_, train_lsp_small_ and test_joints.csv into `out` from (images, joints.mat) of each release; {file:
    number of lines}.

    train = all of LSPET, then LSP's first 1000; test = the rest of LSP. `held_out` moves the last so many LSPET images
    to val_joints.csv. `lspet` None leaves it out (synthetic stand-in). DataError for missing or wrong files, with
    `strict` also for other counts.
    """
    extended = _release("lspet", *lspet, strict) if lspet else []
    small = _release("lsp", *lsp, strict)
    first = TRAIN_IMAGES if len(small) > TRAIN_IMAGES else len(small) // 2
    kept = len(extended) - held_out
    if held_out and not 0 < held_out < len(extended):
        raise DataError(f"--held_out {held_out}: LSPET has {len(extended)} images")
    files = {"train": extended[:kept] + small[:first], "train_lsp_small": small[:first], "test": small[first:]}
    if held_out:
        files["val"] = extended[kept:]
    out.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        write_lines(out / f"{name}_visible.csv", [flags for _, flags in lines])
        write_lines(out / f"{name}_joints.csv", [joints for joints, _ in lines])
    return {f"{name}_joints.csv": len(lines) for name, lines in files.items()}


def _release(name: str, folder: Path, file: Path, strict: bool) -> list[tuple[str, str]]:
    from common.datasets.files import read_mat

    joints, usable = lsp_table(read_mat(file, "joints"))
    images = sorted(folder.glob("*.jpg"))
    if len(images) != COUNTS[name] and not (file.parent / "SYNTHETIC").exists():
        message = f"{folder} holds {len(images)} images, the release of {name} {COUNTS[name]}"
        if strict or not images:
            raise DataError(message + "; get it again")
        print(f"warning: {message}", file=sys.stderr)
    return lsp_lines(images, joints, usable, file)


def mpii_rows(mat: Path) -> list[dict]:
    """The original's data.json: a dict for every person with all 16 joints, in the release's order and frame (pixels
    from 1)."""
    from common.datasets.mpii_release import read_release

    persons = read_release(mat)
    persons, rows = persons.select((persons.visible > 0).all(1)), []
    for i, name in enumerate(persons.image):
        seen = {str(k): int(persons.visible[i, k] == 2) for k in range(16)} if persons.flagged[i] else None
        about = {"filename": str(name), "train": int(persons.train[i]), "head_rect": persons.head_box[i].tolist()}
        at = {str(k): persons.joints[i, k].tolist() for k in range(16)}
        rows.append({**about, "is_visible": seen, "joint_pos": at})
    return rows


def mpii_split(names: list[str], by: str = "person") -> tuple[np.ndarray, np.ndarray]:
    """(train, test) indices of persons by their image: a tenth of them, at random with the original's seed, is test.
    Two persons of one photograph can land on both sides; `by` = image puts whole photographs there."""
    from common.datasets.mpii_release import random_tenth

    if by == "person":
        return random_tenth(len(names))
    images = list(dict.fromkeys(names))
    chosen = {images[i] for i in random_tenth(len(images))[1]}
    test = np.array([name in chosen for name in names], bool)
    return np.flatnonzero(~test), np.flatnonzero(test)


def prepare_mpii(mat: Path, out: Path, split_by: str = "person") -> str:
    """Write data.json, train_ and test_joints.csv into `out`; the original's printed counts."""
    rows = mpii_rows(mat)
    train, test = mpii_split([row["filename"] for row in rows], split_by)
    out.mkdir(parents=True, exist_ok=True)
    write_lines(out / "data.json", [json.dumps(row) for row in rows])
    points = [[repr(float(v)) for k in range(16) for v in row["joint_pos"][str(k)]] for row in rows]
    lines = [",".join([row["filename"], *values]) for row, values in zip(rows, points)]
    for name, indices in (("train", train), ("test", test)):
        write_lines(out / f"{name}_joints.csv", [lines[i] for i in indices])
    counts = {"N": len(rows), "N_train": len(train), "N_test": len(test)}
    counts |= {"train_indices": len(train), "test_indices": len(test)}
    return "\n".join(f"{name}:{count}" for name, count in counts.items())


def ready_csv(path: Path, dataset: str) -> None:
    """Make sure that a CSV is there: a default one is made from the release, when that is there. DataMissing or
    DataError otherwise."""
    if path.is_file():
        return
    command = f"python {Path(__file__).resolve()}"
    if path.parent.resolve() != CSV_FOLDERS[dataset].resolve():
        raise DataError(f"CSV {path} does not exist; write it with `{command}` (--help), or give another one")
    prepare_default(dataset)
    if not path.is_file():
        raise DataError(f"CSV {path} is none of those that prepare.py makes; check its name")


def prepare_default(dataset: str) -> None:
    """Prepare a release where the original expects it. DataMissing when it is not there, DataError for real data mixed
    with synthetic."""
    from common.datasets.files import missing

    if dataset == "mpii":
        if not (MPII_ROOT / RELEASE).is_file():
            raise missing("mpii", MPII_ROOT, f"{RELEASE} and images/")
        print(prepare_mpii(MPII_ROOT / RELEASE, MPII_ROOT))
        return
    if not (LSP_ROOT / "joints.mat").is_file():
        raise missing("lsp", LSP_ROOT, "joints.mat and images/")
    drawn, extended = (LSP_ROOT / "SYNTHETIC").exists(), (LSPET_ROOT / "joints.mat").is_file()
    if not extended and not drawn:
        raise missing("lspet", LSPET_ROOT, "joints.mat and images/")
    if extended and drawn != (LSPET_ROOT / "SYNTHETIC").exists():
        what = f"one of {LSP_ROOT} and {LSPET_ROOT} is SYNTHETIC, the other real"
        raise DataError(f"{what}; they are not mixed: move one away")
    places = [(root / "images", root / "joints.mat") for root in (LSPET_ROOT, LSP_ROOT)]
    counts = prepare_lsp(places[0] if extended else None, places[1], LSPET_ROOT)
    if drawn:
        (LSPET_ROOT / "SYNTHETIC").touch()
    print(", ".join(f"{name}: {count}" for name, count in counts.items()))


def make_stand_ins(dataset: str, drawn: Path | None = None) -> None:
    """Synthetic people where there is no data (a link to the folder `drawn`, if given), and stand-in weights where
    there are none.

    Real data is left alone. DataError when `drawn` is no folder of synthetic data.
    """
    from common.datasets import synthetic

    root = LSP_ROOT if dataset == "lsp" else MPII_ROOT
    if drawn and not (drawn / "SYNTHETIC").exists():
        command = f"python -m common.datasets.synthetic {dataset}"
        raise DataError(f"--synthetic {drawn}: that folder has no file SYNTHETIC; draw it with `{command}`")
    if not root.exists():
        if drawn:
            root.parent.mkdir(parents=True, exist_ok=True)
            root.symlink_to(os.path.relpath(drawn.resolve(), root.parent.resolve()), target_is_directory=True)
        else:
            synthetic.make(dataset, root)
        print(f"synthetic {dataset} is in {root}")
    if not (root / "SYNTHETIC").exists():
        print(f"{root} holds real data: no stand-ins are made")
        return
    prepare_default(dataset)
    if not IMAGENET_WEIGHTS.exists():
        write_stand_in(IMAGENET_WEIGHTS)
        print(f"stand-in weights (random, no ImageNet in them): {IMAGENET_WEIGHTS}")


def write_stand_in(path: Path, seed: int = 1701) -> None:
    """Random weights of conv1 to fc7 (He's), of the smoke preset's size, in the old single-file format with a card that
    says what they are."""
    from common.weights.tf1 import write_v1
    from deeppose_tf.model import RESTORED_LAYERS, build_network, get_weights
    from deeppose_tf.weight_files import tensorflow

    weights = get_weights(build_network(14, channels=SMOKE["channels"], init="he", seed=seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_v1(path, {n: v for n, v in weights.items() if n.split("/")[0] in RESTORED_LAYERS}, tensorflow)
    note = "random weights, no ImageNet in them: for synthetic data only"
    write_json(card_path(path), {"synthetic": True, "what": note, "sha256": sha256_of(path)})


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    lsp = commands.add_parser("lsp", help="LSPET and LSP")
    places = {"extended_lsp_images_dir": LSPET_ROOT / "images", "extended_lsp_joints_path": LSPET_ROOT / "joints.mat",
              "small_lsp_images_dir": LSP_ROOT / "images", "small_lsp_joints_path": LSP_ROOT / "joints.mat",
              "output_dir": LSPET_ROOT}  # fmt: skip
    for option, default in places.items():
        lsp.add_argument(f"--{option}", type=Path, default=default, help=f"(default: {default})")
    lsp.add_argument("--strict_counts", action="store_true", help="an error unless 10000 and 2000 images are there")
    lsp.add_argument("--held_out", type=int, default=0, help="the last N LSPET images into val_joints.csv, not train")
    mpii = commands.add_parser("mpii", help="MPII")
    mpii.add_argument("--mat", type=Path, default=MPII_ROOT / RELEASE, help=f"(default: {MPII_ROOT / RELEASE})")
    mpii.add_argument("--output_dir", type=Path, default=MPII_ROOT, help=f"(default: {MPII_ROOT})")
    mpii.add_argument("--split_by", choices=("person", "image"), default="person", help="person: the original's")
    for command in (lsp, mpii):
        text = "make stand-ins for missing data (DIR: drawn there already)"
        command.add_argument("--synthetic", nargs="?", const=True, metavar="DIR", help=text)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    if args.synthetic:
        make_stand_ins(args.command, None if args.synthetic is True else Path(args.synthetic))
    elif args.command == "mpii":
        if not args.mat.is_file():
            where = "get it from http://human-pose.mpi-inf.mpg.de, or use --synthetic"
            raise DataMissing(f"{args.mat} does not exist; {where}")
        print(prepare_mpii(args.mat, args.output_dir, args.split_by))
    elif args.small_lsp_joints_path == LSP_ROOT / "joints.mat" and not args.small_lsp_joints_path.exists():
        prepare_default("lsp")
    else:
        lspet = args.extended_lsp_images_dir.absolute(), args.extended_lsp_joints_path
        lsp = args.small_lsp_images_dir.absolute(), args.small_lsp_joints_path
        counts = prepare_lsp(lspet, lsp, args.output_dir, args.strict_counts, args.held_out)
        print(", ".join(f"{name}: {count}" for name, count in counts.items()))


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    return exit_code(lambda: run(parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
