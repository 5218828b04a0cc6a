"""Settings as a dataclass: the command line, presets and setting files all come from its fields; unknown keys are errors.

A field's help text is the string in its metadata: `lr: float = setting(1e-3, "Adam learning rate")`.
"""

from __future__ import annotations

import argparse
import configparser
import types
import typing
from dataclasses import MISSING, Field, field, fields
from pathlib import Path

from common.poses import DataError


def setting(default, text: str, choices: tuple | None = None, flag: str | None = None):
    """A dataclass field with its help text; `choices` limits the values, `flag` is another spelling on the command line."""
    metadata = {"help": text, "choices": choices, "flag": flag}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def _default(f: Field):
    return f.default if f.default is not MISSING else f.default_factory()


def _scalar_type(annotation) -> tuple[type, bool]:
    """(type, optional) of a field annotation such as `int`, `float | None`."""
    if isinstance(annotation, types.UnionType):
        options = [a for a in typing.get_args(annotation) if a is not type(None)]
        return options[0], len(options) < len(typing.get_args(annotation))
    return annotation, False


def convert(name: str, text, annotation):
    """A text value as the field's type; ValueError naming the field."""
    kind, optional = _scalar_type(annotation)
    if text is None or (optional and str(text).lower() in ("none", "null", "")):
        if optional:
            return None
        raise ValueError(f"setting {name} needs a {kind.__name__}")
    try:
        if kind is bool:
            if isinstance(text, bool):
                return text
            return {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}[str(text).lower()]
        if kind is tuple or typing.get_origin(kind) is tuple:
            parts = text if isinstance(text, (list, tuple)) else str(text).split(",")
            return tuple(float(p) for p in parts)
        return kind(text)
    except (KeyError, ValueError):
        raise ValueError(f"setting {name}: {text!r} is not a {getattr(kind, '__name__', kind)}") from None


def add_arguments(parser: argparse.ArgumentParser, cls) -> None:
    """One option a field. Options that are not given stay out of the namespace, so that presets and files can fill them."""
    hints = typing.get_type_hints(cls)
    for f in fields(cls):
        kind, _ = _scalar_type(hints[f.name])
        names = [f"--{f.name}"] + ([f.metadata["flag"]] if f.metadata.get("flag") else [])
        text = f"{f.metadata.get('help', '')} (default: {_default(f)})".replace("%", "%%")
        if kind is bool:
            parser.add_argument(*names, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        else:
            metavar = None if f.metadata.get("choices") else getattr(kind, "__name__", "VALUE").upper()
            parser.add_argument(*names, default=argparse.SUPPRESS, choices=f.metadata.get("choices"), help=text, metavar=metavar)


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
    """A file of `key = value` lines, with or without sections, or YAML (`.yaml`), as {key: text}. DataError when it cannot be read."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"settings file {path} does not exist")
    text = path.read_text()
    if path.suffix in (".yaml", ".yml"):
        import yaml

        loaded = yaml.safe_load(text) or {}
        if not isinstance(loaded, dict):
            raise DataError(f"settings file {path} must be a mapping of setting names to values")
        return loaded
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text if text.lstrip().startswith("[") else "[settings]\n" + text)
    except configparser.Error as error:
        raise DataError(f"settings file {path}: {error}; write one `key = value` a line") from error
    return {key.replace("-", "_"): value for section in parser.sections() for key, value in parser[section].items()}
