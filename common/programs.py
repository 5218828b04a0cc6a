"""How the programs of all houses end: messages for people, exit codes for scripts."""

from __future__ import annotations

import sys
from collections.abc import Callable

from common.poses import DataError


def exit_code(work: Callable[[], object], done: str = "", remedy: str = "") -> int:
    """Do `work()`: 0 when it ends well, 2 on bad input, 1 when training diverged (FloatingPointError).

    Bad input is a DataError, a ValueError, or an OSError: a file that cannot be read or written.

    `done` is printed after success with {} replaced by what `work` returned; `remedy` ends the message about a diverged training.
    Messages of errors go to standard error, without a traceback.
    """
    try:
        result = work()
    except (DataError, ValueError, OSError) as error:
        print(f"error: {plain_message(error)}", file=sys.stderr)
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
