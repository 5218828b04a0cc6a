"""The command line: P's spelling of switches, presets, and the checks that need no framework."""

from __future__ import annotations

import argparse
import re
import typing

from common.runs.first import settings
from common.runs.first.settings import add_arguments, resolve
from simplebaseline_paddle.config import PRESETS, Config, data_root

_TRUTH = re.compile(r"(?i)(yes|true|on|1|y)|no|false|off|0|n")
# P's options that have nothing to do any more
IGNORED = {
    "total_images": "the data set says how many there are",
    "with_logits": "the network ends without an activation: its output always is the raw heat-map",
}
# ... and those that P's val.py takes and never looks at
TRAINING_ONLY = dict.fromkeys(("num_epochs", "pretrained_model", "lr", "lr_strategy"), "scoring does not train")


def switches(cls=Config) -> set[str]:
    """Names of the fields that are true or false."""
    hints = typing.get_type_hints(cls)
    return {name for name in cls.__dataclass_fields__ if settings._scalar_type(hints[name])[0] is bool}


def plain_switches(argv: list[str], names: set[str]) -> list[str]:
    """`--flip_test=no` and `--flip_test no`, as P writes its switches, as `--no-flip_test`."""
    out, rest = [], list(argv)
    while rest:
        word = rest.pop(0)
        name, given, value = word.partition("=")
        if name.removeprefix("--") in names and name.startswith("--"):
            if not given and rest and _TRUTH.fullmatch(rest[0]):
                given, value = "=", rest.pop(0)
            if given:
                match = _TRUTH.fullmatch(value)
                if not match:
                    raise ValueError(f"setting {name[2:]}: {value!r} is neither true nor false")
                word = name if match[1] else f"--no-{name[2:]}"
        out.append(word)
    return out


def drop_ignored(argv: list[str], announce=print, ignored: dict[str, str] = IGNORED) -> list[str]:
    """Take P's dead options out, saying so."""
    out, rest = [], list(argv)
    while rest:
        word = rest.pop(0)
        name = word.partition("=")[0].removeprefix("--")
        if word.startswith("--") and name in ignored:
            if "=" not in word and rest and not rest[0].startswith("-"):
                rest.pop(0)
            announce(f"--{name} has no effect: {ignored[name]}")
        else:
            out.append(word)
    return out


def parse_config(parser: argparse.ArgumentParser, argv: list[str] | None) -> Config:
    """A training run's settings from preset and command line. ValueError for an unknown value."""
    import sys

    argv = sys.argv[1:] if argv is None else argv
    parser.add_argument(
        "--preset", choices=("auto", *PRESETS), default="auto", help="auto: smoke on synthetic data, else paper"
    )
    add_arguments(parser, Config)
    given = vars(parser.parse_args(plain_switches(drop_ignored(argv), switches())))
    preset = given.pop("preset")
    if preset == "auto":
        wanted = resolve(Config, given)
        preset = "smoke" if (data_root(wanted.data_root, wanted.dataset) / "SYNTHETIC").exists() else "paper"
    return resolve(Config, PRESETS[preset], given).checked()
