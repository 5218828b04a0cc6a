"""The door to `common.synthetic`: `python -m common.datasets.synthetic NAME ROOT [--count N] [--seed S]`."""

from __future__ import annotations

import sys

from common.synthetic import NAMES, main, make

__all__ = ["NAMES", "main", "make"]

if __name__ == "__main__":
    sys.exit(main())
