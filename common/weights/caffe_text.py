"""Caffe's text files (`.prototxt`): nets and solvers as protobuf text, read with the line and column of whatever is wrong in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from common.errors import DataError
from common.weights.caffe_messages import messages

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)|(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(?P<word>[A-Za-z_][\w]*)"""
    r"""|(?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?[fF]?|inf(?:inity)?\b|nan\b))|(?P<mark>[{}<>\[\]:,;])"""
)
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|[xX][0-9a-fA-F]{1,2}|.)", re.DOTALL)
_ESCAPES = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}
_BOOL = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_INTEGER_TYPES = {3, 5, 13}  # int64, int32, uint32 of FieldDescriptor.type
_RANGES = {3: (-(2**63), 2**63 - 1), 5: (-(2**31), 2**31 - 1), 13: (0, 2**32 - 1)}


class Token(NamedTuple):
    """One word, number, string or mark of the text; `kind` is `end` behind the last one."""

    kind: str
    text: str
    line: int
    column: int


class TextFile(NamedTuple):
    """A parsed file: the message, and where (line, from 1) each of its sub-messages began, by path such as ("layer", 3)."""

    message: object
    lines: dict[tuple, int]
    name: str

    def where(self, *path) -> str:
        """`FILE line N` of a sub-message; `FILE` alone when the text does not hold it."""
        return f"{self.name} line {self.lines[path]}" if path in self.lines else self.name


def read_text(path: str | Path, kind: str) -> TextFile:
    """A prototxt file as message `kind` (`NetParameter`, `SolverParameter`). DataError when it is missing or wrong (line, column)."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"prototxt {path} does not exist")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file ({error}); give a .prototxt, not a .caffemodel") from error
    return parse_text(text, kind, str(path))


def parse_text(text: str, kind: str, name: str = "text") -> TextFile:
    """Protobuf text -> message `kind`. DataError with `name`, line and column on a syntax error, an unknown field or a bad value.

    Parameters of layer types that this program does not know (`xyz_param { ... }`) are read over: whoever builds the net names the type.
    """
    parser = _Parser(text, name)
    message = messages()[kind]()
    parser.fields(message, (), "end")
    return TextFile(message, parser.lines, name)


class _Parser:
    def __init__(self, text: str, name: str):
        self.name, self.lines = name, {}
        self.tokens = self._split(text)
        self.position = 0

    def _split(self, text: str) -> list[Token]:
        tokens, position, line, start = [], 0, 1, 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if not match:
                raise DataError(f"{self.name}:{line}:{position - start + 1}: unexpected character {text[position]!r}")
            kind, found = match.lastgroup, match.group()
            if kind != "space":
                tokens.append(Token(kind, found, line, position - start + 1))
            breaks = found.count("\n")
            if breaks:
                line, start = line + breaks, position + found.rindex("\n") + 1
            position = match.end()
        return [*tokens, Token("end", "the end of the file", line, position - start + 1)]

    @property
    def now(self) -> Token:
        """The token that comes next."""
        return self.tokens[self.position]

    def take(self) -> Token:
        """The next token, which is then behind."""
        self.position += 1
        return self.tokens[self.position - 1]

    def skip(self, *marks: str) -> bool:
        """Take the next token if it is one of `marks`; whether it was."""
        if self.now.kind == "mark" and self.now.text in marks:
            self.position += 1
            return True
        return False

    def error(self, token: Token, text: str) -> DataError:
        """The error to raise, with the token's place in the file."""
        return DataError(f"{self.name}:{token.line}:{token.column}: {text}")

    def fields(self, message, path: tuple, closing: str) -> None:
        """Fields of one message up to its closing mark."""
        while not (self.now.text == closing and self.now.kind == "mark") and self.now.kind != "end":
            if self.now.kind != "word":
                raise self.error(self.now, f"expected a field name, found {self.now.text}")
            name = self.take()
            field = message.DESCRIPTOR.fields_by_name.get(name.text)
            if field is None:
                self._unknown(message, name)
            elif field.type == field.TYPE_MESSAGE:
                self._messages(message, field, name, path)
            else:
                self._scalars(message, field, name)
            self.skip(",", ";")
        if closing != "end":
            if self.now.kind == "end":
                raise self.error(self.now, f"{closing} is missing; the block was opened in line {self.lines[path]}")
            self.take()

    def _unknown(self, message, name: Token) -> None:
        if not (message.DESCRIPTOR.name.endswith("LayerParameter") and name.text.endswith("_param")):
            import difflib

            known = list(message.DESCRIPTOR.fields_by_name)
            near = difflib.get_close_matches(name.text, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise self.error(name, f"{message.DESCRIPTOR.name} has no field {name.text}; {hint}")
        self.skip(":")
        depth = 0
        while True:
            token = self.take()
            if token.kind == "end":
                raise self.error(name, f"the block of {name.text} is not closed")
            depth += (token.text in ("{", "<")) - (token.text in ("}", ">")) if token.kind == "mark" else 0
            if depth == 0:
                return

    def _messages(self, message, field, name: Token, path: tuple) -> None:
        self.skip(":")
        listed = self.skip("[")
        while True:
            if not self.skip("{", "<"):
                raise self.error(self.now, f"{name.text} needs a block in braces, found {self.now.text}")
            closing = "}" if self.tokens[self.position - 1].text == "{" else ">"
            repeated = _is_repeated(field)
            if not repeated and message.HasField(name.text):
                raise self.error(name, f"{name.text} is given twice")
            inner = getattr(message, name.text).add() if repeated else getattr(message, name.text)
            inner.SetInParent()
            here = (*path, name.text, len(getattr(message, name.text)) - 1) if repeated else (*path, name.text)
            self.lines[here] = name.line
            self.fields(inner, here, closing)
            if not listed or not self.skip(","):
                break
        if listed and not self.skip("]"):
            raise self.error(self.now, f"expected ] behind the list of {name.text}, found {self.now.text}")

    def _scalars(self, message, field, name: Token) -> None:
        if not self.skip(":"):
            raise self.error(self.now, f"expected a colon after {name.text}, found {self.now.text}")
        if not _is_repeated(field):
            if message.HasField(name.text):
                raise self.error(name, f"{name.text} is given twice")
            setattr(message, name.text, self._value(field, name))
            return
        listed, values = self.skip("["), getattr(message, name.text)
        if listed and self.skip("]"):
            return
        values.append(self._value(field, name))
        while listed and self.skip(","):
            values.append(self._value(field, name))
        if listed and not self.skip("]"):
            raise self.error(self.now, f"expected ] behind the list of {name.text}, found {self.now.text}")

    def _value(self, field, name: Token):
        token = self.take()
        if field.type in (field.TYPE_STRING, field.TYPE_BYTES):
            return self._string(field, name, token)
        text = token.text
        if field.type == field.TYPE_ENUM:
            if text in field.enum_type.values_by_name:
                return field.enum_type.values_by_name[text].number
            if text.isdecimal() and int(text) in field.enum_type.values_by_number:
                return int(text)
            raise self.error(token, f"{name.text}: {text} is not one of {', '.join(field.enum_type.values_by_name)}")
        if field.type == field.TYPE_BOOL and text.lower() in _BOOL:
            return _BOOL[text.lower()]
        if token.kind in ("number", "word") and field.type != field.TYPE_BOOL:
            try:
                return self._number(field, text)
            except ValueError:
                pass
        raise self.error(token, f"{name.text} needs {_wanted(field)}, found {text}")

    @staticmethod
    def _number(field, text: str):
        if field.type in _INTEGER_TYPES:
            value = int(text, 0) if not text.isdecimal() else int(text)
            low, high = _RANGES[field.type]
            if not low <= value <= high:
                raise ValueError(text)
            return value
        return float(text[:-1] if text[-1] in "fF" and not text.lower().endswith("inf") else text)

    def _string(self, field, name: Token, token: Token):
        if token.kind != "string":
            raise self.error(token, f"{name.text} needs a string in quotes, found {token.text}")
        text = token.text[1:-1]
        while self.now.kind == "string":  # adjacent strings are one
            text += self.take().text[1:-1]
        data = _ESCAPE.sub(_unescaped, text.encode())
        if field.type == field.TYPE_BYTES:
            return data
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self.error(token, f"{name.text} is not UTF-8 text ({error})") from error


def _unescaped(match: re.Match) -> bytes:
    found = match[1]
    if found[:1] in b"xX" and len(found) > 1:
        return bytes([int(found[1:], 16)])
    if found.isdigit():
        return bytes([int(found, 8) & 255])
    return _ESCAPES.get(found, found)


def _is_repeated(field) -> bool:
    return field.is_repeated if hasattr(type(field), "is_repeated") else field.label == field.LABEL_REPEATED


def _wanted(field) -> str:
    if field.type == field.TYPE_BOOL:
        return "true or false"
    low = "a whole number" if field.type in _INTEGER_TYPES else "a number"
    return low + (" of at least 0" if field.type == field.TYPE_UINT32 else "")
