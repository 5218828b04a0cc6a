"""Settings as a dataclass: the command line, presets and setting files all come from its fields; unknown keys are errors.

A field's help text is the string in its metadata: `lr: float = setting(1e-3, "Adam learning rate")`.
"""

from __future__ import annotations

import argparse
import configparser
import types
import typing
from dataclasses import field, fields
from pathlib import Path

from common.errors import DataError


def setting(default, text: str, choices: tuple | None = None, flag: str | None = None):
    """A dataclass field with its help text; `choices` limits the values, `flag` is another spelling on the command line."""
    metadata = {"help": text, "choices": choices, "flag": flag}
    return field(default=default, metadata=metadata)


def _scalar_type(annotation) -> tuple[type, bool]:
    """(type, optional) of a field annotation such as `int`, `float | None`."""
    if isinstance(annotation, types.UnionType):
        options = [a for a in typing.get_args(annotation) if a is not type(None)]
        return options[0], len(options) < len(typing.get_args(annotation))
    return annotation, False


_BOOL = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def convert(name: str, text, annotation):
    """A value from the command line or a file (text, or what YAML made of it) as the field's type; ValueError naming the field."""
    kind, optional = _scalar_type(annotation)
    if text is None or (optional and str(text).lower() in ("none", "null", "")):
        if optional:
            return None
        raise ValueError(f"setting {name} needs a {kind.__name__}")
    if isinstance(text, (list, tuple, dict)):
        raise ValueError(f"setting {name}: {text!r} is not one {kind.__name__}")
    try:
        # through text, so that YAML's 3.7 or true is refused for an int instead of being cut to 3 or 1
        return _BOOL[str(text).lower()] if kind is bool else kind(str(text))
    except (KeyError, ValueError):
        raise ValueError(f"setting {name}: {text!r} is not a {kind.__name__}") from None


def add_arguments(parser: argparse.ArgumentParser, cls) -> None:
    """One option a field. Options that are not given stay out of the namespace, so that presets and files can fill them."""
    hints = typing.get_type_hints(cls)
    for f in fields(cls):
        kind, _ = _scalar_type(hints[f.name])
        names = [f"--{f.name}"] + ([f.metadata["flag"]] if f.metadata.get("flag") else [])
        text = f"{f.metadata.get('help', '')} (default: {f.default})".replace("%", "%%")
        if kind is bool:
            parser.add_argument(*names, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        else:
            choices = f.metadata.get("choices") and [
                str(c) for c in f.metadata["choices"]
            ]  # values stay text until `resolve`
            metavar = None if choices else kind.__name__.upper()
            parser.add_argument(*names, default=argparse.SUPPRESS, choices=choices, help=text, metavar=metavar)


def resolve(cls, *layers: dict):
    """The settings object from layers of {name: value}, later ones win (preset, file, command line). ValueError on an unknown key or value."""
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}
    values = {}
    for layer in layers:
        for name, value in layer.items():
            if name not in known:
                raise ValueError(f"unknown setting {name!r}; known: {', '.join(known)}")
            value = convert(name, value, hints[name])
            choices = known[name].metadata.get("choices")
            if choices and value is not None and value not in choices:
                raise ValueError(f"setting {name}: {value!r} is not one of {', '.join(map(str, choices))}")
            values[name] = value
    return cls(**values)


def read_settings_file(path: str | Path) -> dict:
    """A file of `key = value` lines, with or without sections, or YAML (`.yaml`), as {key: value}. DataError when it cannot be read.

    Sections only group; `-` in a key means `_`; `#` or `;` starts a comment at the start of a line or after a space.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"settings file {path} does not exist")
    try:
        text = path.read_text(encoding="utf-8")
        found = _read_yaml(text) if path.suffix in (".yaml", ".yml") else _read_ini(text)
    except (OSError, ValueError, configparser.Error) as error:
        raise DataError(
            f"settings file {path}: {error}; write one `key = value` a line (`key: value` in YAML)"
        ) from error
    return {str(key).replace("-", "_"): value for key, value in found.items()}


def _read_yaml(text: str) -> dict:
    import yaml

    try:
        loaded = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(error) from error
    if not isinstance(loaded, dict):
        raise ValueError("it holds no mapping of setting names to values")
    return loaded


def _read_ini(text: str) -> dict[str, str]:
    # default_section: [DEFAULT] is a section like any other here
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=("#", ";"), default_section="")
    parser.optionxform = str  # keys keep their case, as dataclass fields have it
    parser.read_string("[lines before any section]\n" + text)
    return {key: value for section in parser.sections() for key, value in parser[section].items()}
