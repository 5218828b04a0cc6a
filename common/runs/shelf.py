"""Where runs lie and where weights are looked for.

A run's folder is `output/HOUSE/RUN/`, relative to the working directory; what is looked for there is then looked for in
the repository's own `output/`. Shipped weights are `HOUSE/zoo/NAME.*`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from common.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[2]
STATES = ("best", "last")


def run_folder(house: str, run: str, out: str | Path | None = None) -> Path:
    """The folder of a new run: `out` where it is given, else output/HOUSE/RUN."""
    return Path(out) if out else Path("output") / house / run


def result_path(out: str | Path | None, standard: Path) -> Path:
    """The file that `--out` names: `standard` without it, that name in a folder (no suffix, or ends in /)."""
    if out is None:
        return standard
    path = Path(out)
    return path / standard.name if str(out).endswith("/") or not path.suffix or path.is_dir() else path


def data_folder(root: str | Path | None, dataset: str) -> Path:
    """The folder of a data set: `root` where it is given, else data/DATASET here, in small letters or large ones, else in
    the repository."""
    if root:
        return Path(root)
    wanted, bases = dataset.lower().replace("_", ""), (Path("data"), REPOSITORY / "data")
    named = ((base / dataset, *sorted(base.glob("*"))) for base in bases)
    found = (path for paths in named for path in paths if path.name.lower().replace("_", "") == wanted)
    return next((path for path in found if path.exists()), REPOSITORY / "data" / dataset)


def find_weights(house: str, given: str | Path | None, suffixes: Iterable[str], runs: str = "*") -> Path | None:
    """The weights that `--weights` names; without it the newest best (else last) of this house, said, or None.

    `given` is a file or folder (a run's folder means its best state), or the name of shipped weights. `runs` limits
    whose newest is taken. DataError listing what there is when a given one is not found.
    """
    suffixes = tuple(suffixes)
    if given is None:
        found = next(filter(None, (_states(base, suffixes, runs) for base in outputs(house))), [])
        newest = max(found, key=lambda p: p.stat().st_mtime, default=None)
        if newest:
            print(f"weights: {newest} (the newest of {house}; --weights takes others)")
        return newest
    path = Path(given)
    if path.is_dir():
        return _state_in(path, suffixes) or path
    if path.exists():
        return path
    if str(given) in shipped(house):
        return shipped(house)[str(given)]
    why = f"{given} is neither a file nor a folder nor shipped"
    if str(given) in ("raw", "averaged"):
        why += "; the trained weights in place of their moving average: --raw_weights"
    raise missing_weights(house, suffixes, why)


def missing_weights(house: str, suffixes: Iterable[str], why: str = "there are none yet") -> DataError:
    """The error for weights that are not there; lists the runs and shipped weights that are."""
    runs = [str(p) for base in outputs(house) for p in _states(base, tuple(suffixes), "*")][:8]
    have = f"runs here: {', '.join(runs) or 'none'}; shipped: {', '.join(shipped(house)) or 'none'}"
    return DataError(f"weights: {why}. {have}. Train with `python {house}/train.py`, or give --weights one of them")


def outputs(house: str) -> list[Path]:
    """Where runs of a house lie: here, then in the repository; once where that is the same."""
    return list({p.resolve(): p for p in (REPOSITORY / "output" / house, Path("output") / house)}.values())[::-1]


def _state_in(folder: Path, suffixes: tuple[str, ...]) -> Path | None:
    places = (folder / (name + suffix) for name in STATES for suffix in suffixes)
    return next((p for p in places if p.is_file()), None)


def _states(base: Path, suffixes: tuple[str, ...], runs: str) -> list[Path]:
    return [state for folder in sorted(base.glob(runs)) if folder.is_dir() and (state := _state_in(folder, suffixes))]


def shipped(house: str) -> dict[str, Path]:
    """Name -> file of the weights that come with the repository."""
    return {p.stem: p for p in sorted((REPOSITORY / house / "zoo").glob("*")) if p.suffix == ".npz"}
