"""The vocabulary: one spelling and one meaning of every shared option, and the parser of all programmes.

`--help` lists options in groups (data, network, training, machine, output), rare ones only with `--help-all`. Switches
are written `--flip_test`, `--no-flip_test` or, as some originals have it, `--flip_test=no` and `--flip_test no`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from common import datasets
from common.errors import DataError, named
from common.runs.settings import WORDS, check_number, kinds, read_settings_file, resolve

_TYPES = {"int": int, "float": float, "bool": bool, "path": Path}
_FORMS = {n: form | ({"type": _TYPES[form["type"]]} if "type" in form else {}) for n, form in WORDS["forms"].items()}
GROUPS = tuple(WORDS)[:5]
# option -> (group, help text)
VOCABULARY = {name: (group, text) for group in GROUPS for name, text in WORDS[group].items()}
_TRUTH = re.compile(r"(?i)(?P<yes>yes|true|on|1|y)|no|false|off|0|n")


class _Form(argparse.RawDescriptionHelpFormatter):
    """One line an option where it fits: its first spelling, its values once, the other spellings behind its text."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32, width=120)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        if isinstance(action, argparse.BooleanOptionalAction):
            return "--[no-]" + action.option_strings[0].lstrip("-")
        values = self._format_args(action, self._get_default_metavar_for_optional(action)) if action.nargs != 0 else ""
        return f"{action.option_strings[0]} {values}".rstrip()

    def _expand_help(self, action: argparse.Action) -> str:
        others = [s for s in action.option_strings[1:] if not s.startswith("--no-")]
        return super()._expand_help(action) + (f" [{', '.join(others)}]" if others else "")


class _Dead(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None) -> None:
        _say_dead(option_string, self.const)


def _say_dead(name: str, reason: str) -> None:
    print(f"--{name.lstrip('-')} has no effect: {reason}", file=sys.stderr)


class Parser(argparse.ArgumentParser):
    """A parser for one programme; `about` is its docstring. Options not given stay out unless they have a default."""

    def __init__(self, about: str | None):
        form = {"usage": "%(prog)s [options]", "formatter_class": _Form, "add_help": False, "allow_abbrev": False}
        super().__init__(description=about, **form)  # type: ignore[arg-type]
        self._sections: dict[str, argparse._ArgumentGroup] = {}
        self._dead: dict[str, str] = {}
        self._switches: set[str] = set()
        self._hidden = 0
        self.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
        self.add_argument("--help-all", action="help", help=argparse.SUPPRESS)

    def option(self, name: str, *names: str, text: str = "", group: str = "", rare: bool = False, **more) -> None:
        """One option; text and group default to the vocabulary's. `type=bool` makes a switch. `more` is argparse's."""
        known = VOCABULARY.get(name, ("", ""))
        spellings = [f"--{name}", *(n if n.startswith("-") else f"--{n}" for n in names)]
        words = (text or known[1]).replace("%", "%%")
        if more.get("default") not in (None, argparse.SUPPRESS, False, True, []) and "default" not in words:
            words += f" (default: {str(more['default']).replace('%', '%%')})"
        more.setdefault("default", argparse.SUPPRESS)
        if more.get("type") is bool:
            del more["type"]
            more["action"] = argparse.BooleanOptionalAction
            self._switches |= {s.lstrip("-") for s in spellings}
            spellings = [s for s in spellings if s.startswith("--")]
        elif "choices" not in more and "action" not in more:
            more.setdefault("metavar", getattr(more.get("type"), "__name__", "text").upper().replace("STR", "TEXT"))
        if rare and "--help-all" not in sys.argv:
            self._hidden += 1
            words = argparse.SUPPRESS
        self._section(group or known[0] or "other").add_argument(*spellings, help=words, **more)

    def options(self, *names: str) -> None:
        """Several options just as the vocabulary has them."""
        for name in names:
            self.option(name, **_FORMS.get(name, {}))

    def also(self, name: str, *names: str) -> None:
        """Further spellings, an original's, of an option that is there."""
        action = self._option_string_actions[f"--{name}"]
        for spelling in (n if n.startswith("-") else f"--{n}" for n in names):
            action.option_strings = [*action.option_strings, spelling]
            self._option_string_actions[spelling] = action

    def settings(self, cls, only: Iterable[str] | None = None, but: Iterable[str] = (), default: str = "") -> None:
        """One option a field of a settings class (of `only` these), without defaults: presets, files, checkpoints come
        between.

        `default` is what the help says that it is, where it is not the field's.
        """
        wanted, left_out, types_of = None if only is None else set(only), set(but), kinds(cls)
        for f in fields(cls):
            if f.name in left_out or (wanted is not None and f.name not in wanted):
                continue
            kind, _ = types_of[f.name]
            meta = f.metadata
            text = meta.get("help") or VOCABULARY.get(f.name, ("", ""))[1]
            standard = default or (f.default_factory() if callable(f.default_factory) else f.default)
            if "default" not in text and standard not in (None, ""):
                text += f" (default: {standard})"
            form: dict = {"type": kind} if kind is bool else {"metavar": kind.__name__.upper().replace("STR", "TEXT")}
            if meta.get("choices"):
                form = {"choices": [str(c) for c in meta["choices"]]}  # values stay text until `resolve`
            if f.name == "resume":
                form = _FORMS["resume"]
            group = meta.get("group", "") or VOCABULARY.get(f.name, ("network",))[0]
            self.option(f.name, *meta.get("names", ()), text=text, group=group, rare=meta.get("rare", False), **form)

    def ignore(self, reasons: dict[str, str]) -> None:
        """Options of an original that have nothing to do any more: accepted, with or without a value, and said."""
        self._dead |= reasons
        for name, reason in reasons.items():
            form: dict = {"nargs": "?", "const": reason, "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
            self.add_argument(f"--{name}", f"-{name}", action=_Dead, **form)

    def without_ignored(self, settings: dict) -> dict:
        """A settings file's values without those that `ignore` names, which is said."""
        for name in self._dead.keys() & settings.keys():
            _say_dead(name, self._dead[name])
        return {name: value for name, value in settings.items() if name not in self._dead}

    def parse_args(self, args=None, namespace=None):  # type: ignore[override]
        """As argparse's, for any of the spellings of a switch."""
        words = list(sys.argv[1:] if args is None else args)
        found = super().parse_args(self._plain(words), namespace)
        try:
            for name, value in vars(found).items():
                check_number(name, value)
                if name in ("out", "json", "result") and value:
                    _check_place(name, Path(value).absolute())
        except DataError as error:
            self.error(str(error))
        return found

    def format_help(self) -> str:
        """The help text; says how to see the rest."""
        tail = f"\n--help-all lists {self._hidden} further options\n" if self._hidden else ""
        return super().format_help() + tail

    def _section(self, group: str) -> argparse._ArgumentGroup:
        if group not in self._sections:
            for name in (*GROUPS, "other") if not self._sections else (group,):
                self._sections[name] = self.add_argument_group(name)
        return self._sections[group]

    def _plain(self, words: list[str]) -> list[str]:
        """`--flip_test=no` and `--flip_test no` as `--no-flip_test`."""
        out, rest = list[str](), list(words)
        while rest:
            word = rest.pop(0)
            name, given, value = word.partition("=")
            if name.startswith("-") and name.lstrip("-") in self._switches:
                if not given and rest and _TRUTH.fullmatch(rest[0]):
                    given, value = "=", rest.pop(0)
                match = _TRUTH.fullmatch(value) if given else None
                if given and not match:
                    self.error(f"{name}: {value!r} is neither yes nor no")
                word = name if not match or match["yes"] else f"--no-{name.lstrip('-')}"
            elif re.match(r"-\d+(\.\d+)?,", word) and out and out[-1].startswith("--"):
                word = f"{out.pop()}={word}"  # a box that begins left of the picture
            out.append(word)
        return out


def _check_place(name: str, path: Path) -> None:
    """DataError, before hours of work, for a place of results that lies in a file, or a folder that is a file."""
    there = next(p for p in (path, *path.parents) if p.exists())
    if there.is_file() and (there != path or not path.suffix):
        raise DataError(f"--{name} {path}: {there} is a file and no folder; give another place")


# what a programme that runs a network over labelled persons asks for, and what one over pictures does
SCORING = "weights raw_weights random_weights shared_joints device threads out protocol json result".split()
PREDICTING = "boxes box_threshold detector detector_threshold recursive weights raw_weights device threads out format draw".split()
PREDICTING += ["min_score", "show", "smooth", "track"]


def training_settings(parser: Parser, cls, presets: dict, argv=None, *, standard="paper", folder=None, fixed=()):
    """A training's settings: the preset, then `--config FILE`, then the command line. DataError on a bad one.

    Preset `auto` is `smoke` where `folder(settings)`, the data's, is marked SYNTHETIC, else `standard`. `fixed`: no
    options.
    """
    auto = f"auto: smoke on synthetic data, else {standard}"
    parser.option("preset", choices=("auto", *presets), default="auto", text=auto)
    parser.option("config", metavar="FILE", default=None)
    parser.settings(cls, but=fixed)
    given = vars(parser.parse_args(argv))
    preset, file = given.pop("preset"), given.pop("config")
    layers = [parser.without_ignored(read_settings_file(file)) if file else {}, given]
    with named(file):
        resolve(cls, layers[0])
    if preset == "auto":
        wanted = resolve(cls, presets[standard], *layers)
        drawn = folder is not None and (Path(folder(wanted)) / "SYNTHETIC").exists()
        preset = "smoke" if drawn else standard
    config = resolve(cls, presets[preset], *layers)
    if folder is not None:
        config.valid_split = datasets.valid_split(config.dataset, folder(config), config.valid_split)
    return config


def given_of(args: argparse.Namespace, *names: str) -> dict:
    """{name: value} of those options that were given (or have a default other than None)."""
    return {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
