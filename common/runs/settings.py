"""Settings as a dataclass: command line, presets and files all come from its fields; unknown keys are errors."""

from __future__ import annotations

import configparser
import re
import types
import typing
from contextlib import suppress
from dataclasses import field, fields
from pathlib import Path

import yaml

from common.errors import DataError


def setting(default, text: str = "", choices: tuple | None = None, names: tuple[str, ...] = (), group: str = "",
            rare: bool = False):  # fmt: skip
    """A dataclass field. `choices` limits its values, `names` are further spellings (an original's), with their dashes
    where they have one only. `group` is where `--help` lists it; `rare` ones are listed by `--help-all` alone. `text`
    and `group` are the vocabulary's unless given. A list or dict is copied for each object.
    """
    metadata = {"help": text, "choices": choices, "names": names, "group": group, "rare": rare}
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def kinds(cls) -> dict[str, tuple[type, bool]]:
    """(type, whether None is a value) of every field of a settings class, from annotations such as `float | None`."""
    found = {}
    for name, hint in typing.get_type_hints(cls).items():
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        found[name] = next(o for o in options if o is not type(None)), type(None) in options
    return found


WORDS = yaml.safe_load(Path(__file__).with_name("vocabulary.yaml").read_text(encoding="utf-8"))
_FREE, _ONE, _MOST = WORDS["bounds"].values()
_NODES = 100_000  # a settings file has no more values
_BOOL = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def convert(name: str, value, kind: type, optional: bool = False):
    """A value from the command line or a file (text, or YAML's) as the field's type; DataError naming the field."""
    if value is None or (optional and str(value).lower() in ("none", "null", "")):
        if optional:
            return None
        raise DataError(f"setting {name} needs a value of type {kind.__name__}")
    if kind in (list, dict):
        found = parse_yaml(f"setting {name}: {value!r}", value) if isinstance(value, str) else value
        found = list(found) if isinstance(found, tuple) else found
        if isinstance(found, kind):
            return found
    elif not isinstance(value, (list, tuple, dict)) and "\0" not in str(value):  # which no file's name may hold
        with suppress(KeyError, ValueError):
            # through text, so that YAML's 3.7 or true is refused for an int instead of being cut to 3 or 1
            return _BOOL[str(value).lower()] if kind is bool else kind(str(value))
    raise DataError(f"setting {name}: {value!r} is not a {kind.__name__}")


def check_number(name: str, value) -> None:
    """DataError for a number that makes no sense as this setting, in whichever programme."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or name in _FREE:
        return
    least, most = int(name in _ONE), _MOST.get(name, 1e300)
    if not least <= value <= most or (name == "channels" and not value):  # NaN neither
        known = f" and {most} at most" if most < 1e300 else ""
        above = "more than 0" if name == "channels" else f"{least} or more"
        raise DataError(f"setting {name}: {value} makes no sense; give --{name} {above}{known}")


def check_numbers(settings, **least: float) -> None:
    """`check_number` for every field of a settings object, and those of `least` against these bounds; None passes."""
    for f in fields(settings):
        value, bound = getattr(settings, f.name), least.get(f.name)
        check_number(f.name, value)
        if bound is not None and value is not None and value < bound:
            raise DataError(f"setting {f.name}: {value} is less than {bound}; give --{f.name} {bound} or more")


def resolve(cls, *layers: dict):
    """The settings object from layers of {name: value}, later ones win. DataError on an unknown key or value."""
    known, types_of = {f.name: f for f in fields(cls)}, kinds(cls)
    aliases = {name.lstrip("-"): f.name for f in fields(cls) for name in f.metadata.get("names", ())}
    values = {}
    for layer in layers:
        for given, value in layer.items():
            name = aliases.get(given, given)
            if name not in known:
                raise DataError(f"unknown setting {given!r}; known: {', '.join(known)}")
            value = convert(name, value, *types_of[name])
            check_number(name, value)
            choices = known[name].metadata.get("choices")
            if choices and value is not None and value not in choices:
                raise DataError(f"setting {name}: {value!r} is not one of {', '.join(map(str, choices))}")
            values[name] = value
    return cls(**values)


def read_settings_file(path: str | Path) -> dict:
    """A file of `key = value` lines, with or without sections, or YAML (`.yaml`), as {key: value}, or DataError.

    Sections only group; `-` in a key means `_`; `#` or `;` starts a comment at the start of a line or after a space.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"settings file {path} does not exist")
    try:
        text = path.read_text(encoding="utf-8-sig")
        is_yaml = path.suffix in (".yaml", ".yml")
        found = (parse_yaml(f"settings file {path}", text) or {}) if is_yaml else _read_ini(text)
        if not isinstance(found, dict):
            raise ValueError("it holds no mapping of setting names to values")
    except (OSError, ValueError, configparser.Error) as error:
        # a line of ours comes first
        reason = re.sub(r"(line\D*)(\d+)", lambda m: f"{m[1]}{int(m[2]) - 1}", str(error).replace("'<string>' ", ""))
        what = f"settings file {path}: {reason}"
        raise DataError(f"{what}; write one `key = value` a line (`key: value` in YAML)") from error
    return {str(key).replace("-", "_"): value for key, value in found.items()}


def parse_yaml(where: str, text: str):
    """YAML text as plain values; DataError naming `where`."""
    try:
        found = yaml.safe_load(text)
    except Exception as error:  # its constructors let through whatever Python raises
        raise DataError(f"{where} is no YAML ({error})") from error
    seen, left = 0, [found]
    while left:  # aliases make much of little
        value = left.pop()
        seen += 1
        left += [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
        if seen + len(left) > _NODES:
            raise DataError(f"{where} holds more than {_NODES} values: are its aliases (*name) meant?")
    return found


def _read_ini(text: str) -> dict[str, str]:
    # default_section: [DEFAULT] is a section like any other here
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=("#", ";"), default_section="")
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # keys keep their case, as dataclass fields have it
    parser.read_string("[lines before any section]\n" + text)
    return {key: value for section in parser.sections() for key, value in parser[section].items()}
