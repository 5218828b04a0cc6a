"""The CSV files of the original, from the authors' releases; training makes the default ones itself.

    python deeppose_tf/prepare.py lsp                      # datasets/lsp_ext and datasets/lsp -> datasets/lsp_ext/*.csv
    python deeppose_tf/prepare.py mpii                     # datasets/mpii/*.mat -> data.json, *.csv
    python deeppose_tf/prepare.py lsp --synthetic          # stand-ins: drawn people, CSVs, and random weights

Lines are `image,x0,y0,x1,y1,...`; LSP's missing coordinates (not above 0) are -1, each for itself, as in the original.
Beside LSP's files `*_visible.csv` keeps the flags that the original drops; mode correct reads them.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder's data.py must not shadow other modules

import numpy as np

from common.datasets.files import missing, read_mat
from common.datasets.mpii import RELEASE, random_tenth, read_release
from common.errors import DataError
from common.files import sha256_of, write_json, write_text
from common.runs.converting import card_path
from common.runs.options import Parser
from common.runs.process import exit_code
from deeppose_tf.config import CSV_FOLDERS, IMAGENET_WEIGHTS, LSP_ROOT, LSPET_ROOT, MPII_ROOT, PRESETS

COUNTS = {"lspet": 10000, "lsp": 2000}
TRAIN_IMAGES = 1000  # of LSP; half of a smaller set


def write_lines(path: Path, lines: list[str]) -> None:
    """A text file, whole or not at all."""
    write_text(path, "".join(line + "\n" for line in lines))


def lsp_table(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`joints` of LSPET (14,3,N; flag 1: usable) or LSP (3,14,N; all usable) -> coordinates (N,14,2), usable (N,14)."""
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


def prepare_lsp(lspet: Path | None, lsp: Path, out: Path) -> str:
    """Write train_, train_lsp_small_ and test_joints.csv into `out` from the releases' folders; the numbers of lines.

    train = all of LSPET (None: of the stand-in there is none), then LSP's first 1000; test = the rest of LSP.
    """
    extended, small = _release("lspet", lspet) if lspet else [], _release("lsp", lsp)
    first = TRAIN_IMAGES if len(small) > TRAIN_IMAGES else len(small) // 2
    files = {"train": extended + small[:first], "train_lsp_small": small[:first], "test": small[first:]}
    for name, lines in files.items():
        write_lines(out / f"{name}_visible.csv", [flags for _, flags in lines])
        write_lines(out / f"{name}_joints.csv", [joints for joints, _ in lines])
    return ", ".join(f"{name}_joints.csv: {len(lines)}" for name, lines in files.items())


def _release(name: str, root: Path) -> list[tuple[str, str]]:
    joints, usable = lsp_table(read_mat(root / "joints.mat", "joints"))
    images = sorted((root / "images").glob("*.jpg"))
    if len(images) != COUNTS[name] and not (root / "SYNTHETIC").exists():
        message = f"{root / 'images'} holds {len(images)} images, the release of {name} {COUNTS[name]}"
        if not images:
            raise DataError(message + "; get it again")
        print(f"warning: {message}", file=sys.stderr)
    return lsp_lines(images, joints, usable, root / "joints.mat")


def prepare_mpii(mat: Path, out: Path) -> str:
    """Write data.json, train_ and test_joints.csv of every person with all 16 joints, pixels from 1; DT's counts."""
    persons = read_release(mat)
    persons, rows, lines = persons.select((persons.visible > 0).all(1)), [], []
    for i, name in enumerate(map(str, persons.image)):
        seen = {str(k): int(v == 2) for k, v in enumerate(persons.visible[i])} if persons.flagged[i] else None
        about = {"filename": name, "train": int(persons.train[i]), "head_rect": persons.head_box[i].tolist()}
        at = {str(k): xy for k, xy in enumerate(persons.joints[i].tolist())}
        rows.append(json.dumps({**about, "is_visible": seen, "joint_pos": at}))
        lines.append(",".join([name, *map(repr, persons.joints[i].ravel().tolist())]))
    write_lines(out / "data.json", rows)
    train, test = random_tenth(len(rows))
    for name, indices in (("train", train), ("test", test)):
        write_lines(out / f"{name}_joints.csv", [lines[i] for i in indices])
    counts = f"N:{len(rows)}\nN_train:{len(train)}\nN_test:{len(test)}"
    return f"{counts}\ntrain_indices:{len(train)}\ntest_indices:{len(test)}"


def ready_csv(path: Path, dataset: str) -> None:
    """Make sure that a CSV is there: a default one is made from the release. DataMissing or DataError otherwise."""
    if not path.is_file() and path.parent.resolve() == CSV_FOLDERS[dataset].resolve():
        prepare_default(dataset)
    if not path.is_file():
        command = f"python {Path(__file__).resolve()}"
        raise DataError(f"CSV {path} does not exist; write it with `{command}` (--help), or give another one")


def prepare_default(dataset: str) -> None:
    """Prepare a release where DT expects it. DataMissing without it, DataError for real data mixed with synthetic."""
    if dataset == "mpii":
        if not (MPII_ROOT / RELEASE).is_file():
            raise missing("mpii", MPII_ROOT, f"{RELEASE} and images/")
        print(prepare_mpii(MPII_ROOT / RELEASE, MPII_ROOT))
        return
    drawn, extended = (LSP_ROOT / "SYNTHETIC").exists(), (LSPET_ROOT / "joints.mat").is_file()
    for name, root in (("lsp", LSP_ROOT), ("lspet", LSPET_ROOT)):
        if not (root / "joints.mat").is_file() and not (name == "lspet" and drawn):
            raise missing(name, root, "joints.mat and images/")
    if extended and drawn != (LSPET_ROOT / "SYNTHETIC").exists():
        raise DataError(f"one of {LSP_ROOT} and {LSPET_ROOT} is SYNTHETIC, the other real; move one away")
    print(prepare_lsp(LSPET_ROOT if extended else None, LSP_ROOT, LSPET_ROOT))
    if drawn:
        (LSPET_ROOT / "SYNTHETIC").touch()


def make_stand_ins(dataset: str) -> None:
    """Synthetic people where there is no data, and stand-in weights where there are none; real data is left alone."""
    from common.datasets import synthetic

    root = LSP_ROOT if dataset == "lsp" else MPII_ROOT
    if not root.exists():
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
    """Random weights of conv1 to fc7, of the smoke preset's size, in the old format; the card says what they are."""
    from common.weights.tf1 import write_v1
    from deeppose_tf.model import HEAD, build_network, get_weights

    weights = get_weights(build_network(14, channels=PRESETS["smoke"]["channels"], init="he", seed=seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_v1(path, {n: v for n, v in weights.items() if not n.startswith(HEAD)})
    note = "random weights, no ImageNet in them: for synthetic data only"
    write_json(card_path(path), {"synthetic": True, "what": note, "sha256": sha256_of(path)})


def main(argv=None) -> int:
    """Exit code 0, or 2 with a message on bad input."""
    parser = Parser(__doc__)
    parser.add_argument("release", help="lsp or mpii", choices=tuple(CSV_FOLDERS))
    parser.option("synthetic", type=bool, default=False, text="make stand-ins for missing data", group="data")
    args = parser.parse_args(argv)
    return exit_code(lambda: (make_stand_ins if args.synthetic else prepare_default)(args.release))


if __name__ == "__main__":
    sys.exit(main())
