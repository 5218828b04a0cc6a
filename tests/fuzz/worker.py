"""Damages files and reads them, one case a line of standard input, until that ends; `test_fuzz.py` starts and judges it.

python -m tests.fuzz.worker GROUP FOLDER               # lines TARGET SEED CASE
python -m tests.fuzz.worker GROUP FOLDER TARGET SEED CASE   # one case by hand, with its traceback
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from random import Random

import numpy as np

from common.errors import DataError
from tests.fuzz.houses import GROUPS
from tests.fuzz.mutate import KINDS
from tests.fuzz.targets import Target

SPACE = 4 << 30  # bytes of addresses that a case may ask for
SECONDS = 20  # of the processor that it may take: then SIGPROF ends the process


def digest(value, depth: int = 0) -> bytes:
    """Of arrays and plain values within."""
    made = hashlib.sha1()
    if hasattr(value, "detach"):
        value = value.detach().float().numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        made.update(str((value.shape, value.dtype)).encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, dict):
        for key, item in value.items():
            made.update(str(key).encode("utf-8", "replace") + digest(item, depth + 1))
    elif isinstance(value, (list, tuple, np.ndarray)) and depth < 20:
        for item in value:
            made.update(digest(item, depth + 1))
    else:
        made.update(repr(value)[:500].encode("utf-8", "replace"))
    return made.digest()


def damage(target: Target, folder: Path, seed: str, case: str) -> str:
    """A copy of the target's files with one of them damaged; its name."""
    shutil.rmtree(folder, ignore_errors=True)
    target.copy(folder)
    rng = Random(f"{seed} {target.name} {case}")
    name = rng.choice(sorted(target.files))
    data = (folder / name).read_bytes()
    new = next((n for n in (KINDS[target.files[name]](rng, data) for _ in range(5)) if n != data), b"")
    (folder / name).write_bytes(new)
    return name


def outcome(target: Target, folder: Path, right: bytes | None) -> dict:
    """What reading the folder came to: `read`, `refused`, or what is not allowed."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    try:
        other = digest(target.read(folder)) != right
        found = {"kind": "silent" if other and target.checked and right else "read"}
    except (DataError, OSError, SystemExit) as error:
        named = isinstance(error, SystemExit) or any(part in str(error) for part in (str(folder), folder.name))
        found = {"kind": "refused" if named else "unnamed", "text": str(error)[:300]}
    except BaseException as error:
        last = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)][-4:]
        found = {"kind": "raw", "text": f"{type(error).__name__}: {error}"[:300] + " at " + " < ".join(reversed(last))}
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    if grown > 1024:
        found = {"kind": "memory", "text": f"{grown} MiB; {found}"}
    return {**found, "seconds": round(time.monotonic() - began, 2)}


def main(group: str, root: str, *one: str) -> None:
    """Serve, or show one case."""
    answers = os.fdopen(os.dup(1), "w")
    if not one:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1), os.dup2(nowhere, 2)
    warnings.simplefilter("ignore")
    folder = Path(root)
    targets = {t.name: t for t in GROUPS[group](folder / f"{group}_sources")}
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + SPACE, resource.RLIM_INFINITY))
    rights: dict[str, bytes] = {}
    for target in targets.values():
        shutil.rmtree(folder / group, ignore_errors=True)
        target.copy(folder / group)
        rights[target.name] = digest(target.read(folder / group))
    if one:
        target = targets[one[0]]
        print(damage(target, folder / group, one[1], one[2]), "in", folder / group, flush=True)
        print(target.read(folder / group))
        return
    print(json.dumps({name: sorted(t.files) for name, t in targets.items()}), file=answers, flush=True)
    for line in sys.stdin:
        name, seed, case = json.loads(line)
        place = folder / f"{group}_{case}"
        file = damage(targets[name], place, seed, case)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        found = outcome(targets[name], place, rights[name])
        signal.setitimer(signal.ITIMER_PROF, 0)
        shutil.rmtree(place, ignore_errors=True)
        print(json.dumps({"file": file, **found}), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
