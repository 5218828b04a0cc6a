"""What the command lines of this house's programs share: the settings file and single settings on top of it, weights, a limit."""

from __future__ import annotations

import argparse

from common.errors import DataError

WEIGHTS = "weights file, or folder of snapshots (default: the key init_weights)"


def settings_parser(about: str, weights: bool = False, limit: str | None = None) -> argparse.ArgumentParser:
    """A parser with --config, --set, --mode and --allow_unknown, which `settings_of` reads; --weights, and --limit with that help text, if wanted."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", help="pose_cfg.yaml or its folder (default: $POSE_PARAM_PATH, else the working directory)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting on top of the file (YAML value); repeatable",
    )
    parser.add_argument("--mode", choices=("correct", "compat"), help="shorthand for --set mode=...")
    parser.add_argument("--allow_unknown", action="store_true", help="ignore unknown keys of the settings file")
    if weights:
        parser.add_argument("--weights", help=WEIGHTS)
    if limit:
        parser.add_argument("--limit", type=positive_number, help=limit)
    return parser


def testing_parser(about: str, out: str, cached: str) -> argparse.ArgumentParser:
    """The parser of test.py and test_multiperson.py: the original's --cache and --novis, and --weights, --out, --vis, --limit."""
    parser = settings_parser(about, weights=True, limit="the first N images only")
    parser.add_argument("--out", default=out, help=f"file to write (default: {out})")
    parser.add_argument("--cache", action="store_true", help=f"also write {cached}")
    parser.add_argument(
        "--novis", action="store_true", help="accepted as in the original; nothing is shown unless --vis is given"
    )
    parser.add_argument("--vis", help="folder for drawings")
    return parser


def positive_number(text: str) -> int:
    """A number of an option; argparse's error for 0 and less."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def settings_of(args: argparse.Namespace):
    """The Config that the options of `settings_parser` name. DataError on a missing file, unknown key or bad value."""
    import yaml

    from deepercut_tf.config import find_config_file, load_config

    overrides = {}
    for text in args.set:
        name, sign, value = text.partition("=")
        if not sign:
            raise DataError(f"--set {text}: write KEY=VALUE")
        try:
            overrides[name] = yaml.safe_load(value) if value else None
        except yaml.YAMLError as error:
            raise DataError(f"--set {text}: the value is no YAML ({error})") from error
    if args.mode:
        overrides["mode"] = args.mode
    return load_config(find_config_file(args.config), overrides, args.allow_unknown)
