"""One form for all benchmarks: their common options, timing with sides in turn, the printed table, and the JSON for a
README.

A benchmark is `tests/bench/NAME.py WHAT [options]`; each WHAT is a function of the parsed options that returns a table,
{"columns": [...], "rows": [[...], ...]} and perhaps "note" (what else to say). Sides take turns, so that a change of
the machine's load meets all of them. CPU time counts unless said otherwise: wall time says little on a busy machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shlex
import statistics
import time
from collections.abc import Callable
from pathlib import Path

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def one_thread() -> None:
    """Before numpy (which this module does not import) and a framework are imported: their pools have one thread,
    unless the environment says otherwise."""
    for name in _ONE_THREAD:
        os.environ.setdefault(name, "1")


def options(description: str, parts: tuple[str, ...], runs: int = 5) -> argparse.ArgumentParser:
    """The options that every benchmark has; `parts` are the things it measures, the first by default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=parts, default=parts[0], help=f"(default: {parts[0]})")
    parser.add_argument("--runs", type=positive, default=runs, help=f"timed runs of each side (default: {runs})")
    parser.add_argument("--batch_size", type=positive, help="default: what the part is used with")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table here, for a README")
    return parser


def positive(text: str) -> int:
    """An option's whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def take_turns(
    sides: dict, runs: int, clock: Callable[[], float] = time.process_time, warm_up: int = 1
) -> dict[str, float]:
    """{side: median seconds of its call}, in turn, after `warm_up` untimed calls of each."""
    return {side: statistics.median(spent) for side, spent in all_turns(sides, runs, clock, warm_up).items()}


def all_turns(
    sides: dict, runs: int, clock: Callable[[], float] = time.process_time, warm_up: int = 1
) -> dict[str, list[float]]:
    """{side: seconds of each of its calls}."""
    times: dict = {side: [] for side in sides}
    for turn in range(-warm_up, runs):
        for side, call in sides.items():
            start = clock()
            call()
            if turn >= 0:
                times[side].append(clock() - start)
    return times


def cpu_of_all() -> float:
    """CPU seconds of this process's threads and of its living children."""
    ticks, own = os.sysconf("SC_CLK_TCK"), time.process_time()
    for child in _descendants(os.getpid()):
        try:
            fields = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        own += (int(fields[11]) + int(fields[12])) / ticks
    return own


def _descendants(parent: int) -> list[int]:
    try:
        tasks = os.listdir(f"/proc/{parent}/task")
        children = [int(c) for t in tasks for c in Path(f"/proc/{parent}/task/{t}/children").read_text().split()]
    except OSError:
        return []
    return [d for c in children for d in (c, *_descendants(c))]


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def command(file: str, words: list[str]) -> str:
    """This call as somebody else would type it: without --json, folders of this machine as DIR."""
    kept, rest = [], iter(words)
    for word in rest:
        name, given, value = word.partition("=")
        if name == "--json":
            if not given:
                next(rest, None)
        elif os.path.isabs(value or word):
            kept.append(f"{name}=DIR" if given else "DIR")
        else:
            kept.append(word)
    return shlex.join(["python", f"tests/bench/{Path(file).name}", *kept])


def run(args: argparse.Namespace, parts: dict[str, Callable], words: list[str], file: str) -> int:
    """Measure `args.what`, print the table, write `--json`; `words` are the command line of `file`. Exit code 2 on bad
    input."""

    from common.crosscheck import figures_table
    from common.files import versions, write_json
    from common.runs.process import exit_code

    def work() -> None:
        result = parts[args.what](args)
        threads = f"{args.threads} thread{'s' if args.threads > 1 else ''}"
        about = [f"medians of {args.runs} runs, sides in turn", result.get("note"), f"{threads} of {processor()}"]
        used = ", ".join(f"{name} {version}" for name, version in versions().items())
        result |= {"command": command(file, words), "note": ", ".join(filter(None, about)) + f"; {used}"}
        print(figures_table(result))
        who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        print(f"largest process {max(resource.getrusage(one).ru_maxrss for one in who) / 2**20:.1f} GB")
        if args.json:
            write_json(args.json, result)

    return exit_code(work)
