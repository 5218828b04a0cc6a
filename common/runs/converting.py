"""What every convert.py does around its formats: only what computes what its source does is kept, with a card.

with Conversion(args.input, args.output, args.licence) as conversion:
    write(conversion.draft)
    conversion.compare("heat-maps", expected, found, tolerance)
    conversion.keep(mapping="names of the original, unchanged", **more)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import DataError
from common.files import git_sha, publish, sha256_of, temporary_name, versions, write_json
from common.runs.options import Parser


def parser(about: str | None) -> Parser:
    """The parser of a convert.py: INPUT OUTPUT --licence --half."""
    made = Parser(about)
    made.add_argument("input", help="weights to read", metavar="INPUT")
    made.add_argument("output", help="file or folder to write", metavar="OUTPUT", type=Path)
    made.options("licence", "half")
    return made


HALVED = 0.02  # of the largest output: 11 bits a weight, through the depth of a network


def halved(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Floating-point arrays in 16 bits, but those with values that these cannot hold: variances of raw pixels."""
    small = {
        n for n, a in arrays.items() if a.dtype.kind == "f" and np.abs(a).max(initial=0) <= np.finfo(np.float16).max
    }
    return {name: a.astype(np.float16) if name in small else a for name, a in arrays.items()}


def portable(config: dict) -> dict:
    """Settings of a network for whoever uses it elsewhere: without folders and files of the machine that trained it."""
    of_the_run = ("out", "weights", "resume")
    return {n: v for n, v in config.items() if n not in of_the_run and not (isinstance(v, str) and os.path.isabs(v))}


def widened(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `halved` wrote, in float32 again."""
    return {name: a.astype(np.float32) if a.dtype == np.float16 else a for name, a in arrays.items()}


def check_numbers(weights: Mapping[str, Any], source: str | Path) -> None:
    """DataError for arrays that are not real and finite: a network's maxima hide NaN, frameworks drop imaginary parts."""
    for name, array in weights.items():
        array = np.asarray(array)
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise DataError(f"{source}: {name} ({array.dtype}) is not finite, real numbers; give an undamaged file")


def card_path(output: Path) -> Path:
    """Where the card of a weight file lies."""
    return output.with_name(output.name + ".card.json")


class Conversion:
    """One conversion. `draft` is the temporary name to write; `keep` gives it its own after all comparisons.

    Whatever has the draft's name as the beginning of its own (a checkpoint of several files) moves too.
    """

    def __init__(self, source: str | Path, output: str | Path, licence: str):
        self.source, self.output, self.licence = Path(source), Path(output), licence
        if not self.output.name:
            raise DataError(f"OUTPUT {str(output)!r} has no file's name; give the file to write")
        taken = self.output.resolve(), Path(f"{self.output}.index").resolve()  # a TensorFlow checkpoint's
        if self.output.is_dir() or self.source.resolve() in taken:
            raise DataError(f"OUTPUT {output} is there already; give another name")
        self.draft = temporary_name(self.output)
        self.checks: dict[str, dict[str, float]] = {}

    def __enter__(self) -> Conversion:
        self.output.parent.mkdir(parents=True, exist_ok=True)
        return self

    def compare(self, what: str, expected, found, tolerance: float) -> None:
        """How far arrays, or dicts of them, differ by the largest value (or 1e-6); DataError above `tolerance`."""
        pairs = [(expected[n], found[n]) for n in expected] if isinstance(expected, dict) else [(expected, found)]
        worst = max(_difference(*pair) for pair in pairs)
        if not worst <= tolerance:  # NaN too
            raise DataError(f"{self.source}: {what} differ by {worst:g} (allowed {tolerance:g}); nothing was written")
        self.checks[what] = {"largest difference": worst, "tolerance": tolerance}

    def keep(self, **card) -> dict:
        """Publish the draft and its card (OUTPUT.card.json), which is returned."""
        for part in sorted(self.draft.parent.glob(self.draft.name + "*")):
            target = self.output.with_name(self.output.name + part.name[len(self.draft.name) :])
            if part.is_dir():
                shutil.rmtree(target, ignore_errors=True)
                os.replace(part, target)
            else:
                publish(part, target)
        digest = sha256_of(self.source) if self.source.is_file() else None
        origin = {"source": self.source.name, "source_sha256": digest}
        about = {"output": self.output.name, "licence": self.licence, "check": self.checks, "versions": versions()}
        whole = {**origin, **about, "git_sha": git_sha(), **card}
        write_json(card_path(self.output), whole)
        return whole

    def __exit__(self, *error) -> None:
        for part in self.draft.parent.glob(self.draft.name + "*"):
            shutil.rmtree(part) if part.is_dir() else part.unlink()


def _difference(expected, found) -> float:
    expected, found = np.asarray(expected, np.float64), np.asarray(found, np.float64)
    if expected.shape != found.shape:
        raise DataError(f"shapes {expected.shape} and {found.shape} differ")
    if not expected.size:
        return 0.0
    return float(np.abs(expected - found).max() / max(float(np.abs(expected).max()), 1e-6))
