"""Run a programme as `python -m` does, and end with code 9 if threads of gloo outlive it: such a thread, when it takes up
Python while the interpreter ends, aborts the process now and then.

python tests/process_end.py lpm_torch.train --model=lpm ...
"""

import atexit
import os
import pathlib
import runpy
import sys


def threads() -> list[str]:
    """Names of this process's threads that are gloo's."""
    names = [(task / "comm").read_text().strip() for task in pathlib.Path("/proc/self/task").iterdir()]
    return [name for name in names if "gloo" in name]


def check() -> None:
    """Behind all other handlers, because it is registered first."""
    if left := threads():
        print(f"still there at the end: {left}", file=sys.stderr, flush=True)
        os._exit(9)


if __name__ == "__main__":
    atexit.register(check)
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
