"""How the programs of all houses end: messages for people, exit codes for scripts."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from common.errors import DataError


def exit_code(work: Callable[[], object], done: str = "", remedy: str = "") -> int:
    """Do `work()`: 0 when it ends well, 2 on bad input, 1 when training diverged (FloatingPointError).

    Bad input is a DataError, a ValueError, or an OSError: a file that cannot be read or written.

    `done` is printed after success with {} replaced by what `work` returned; `remedy` ends the message about a diverged training.
    Messages of errors go to standard error, without a traceback; with POSE_TRACEBACK=1 in the environment the error itself is raised,
    which shows where a ValueError comes from that may be a fault of ours.
    """
    try:
        result = work()
    except (DataError, ValueError, OSError) as error:
        if os.environ.get("POSE_TRACEBACK") == "1":
            raise
        hint = " (POSE_TRACEBACK=1 shows where)" if isinstance(error, ValueError) else ""
        print(f"error: {plain_message(error)}{hint}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"stopped: {error}" + (f". {remedy}" if remedy else ""), file=sys.stderr)
        return 1
    if done:
        print(done.format(result))
    return 0


def plain_message(error: Exception) -> str:
    """An error's own words; those that come out of a loader process of PyTorch carry that process's traceback."""
    text = str(error)
    return text.strip().splitlines()[-1].partition(": ")[2] if "Original Traceback" in text else text
