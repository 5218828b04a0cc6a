"""The command line of the programs that work on one trained stage and write one file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from common.runs.first.process import exit_code
from common.runs.first.settings import add_arguments
from deeppose_caffe_port.config import Config, settle


def stage_program(about: str, meaning: str, stage: int, work: Callable[[Config, int], Path], argv=None) -> int:
    """Read --stage (`meaning`, default `stage`) and the settings, do `work(settings, stage)` and say what it wrote; the exit code.

    0, or 2 with a message on bad input. `about` is the program's docstring.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", type=int, default=stage, help=f"{meaning} (default: {stage})")
    add_arguments(parser, Config)
    given = vars(parser.parse_args(argv))
    chosen = given.pop("stage")
    return exit_code(lambda: work(settle(given), chosen), "written: {}")
