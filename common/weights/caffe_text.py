"""Caffe's text files (`.prototxt`): nets and solvers as protobuf text; errors have line and column."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import DataError
from common.weights.caffe_messages import ENUMS, messages

_STRING = r""""(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'"""
_COMMENTS = re.compile(rf"(?P<comment>#[^\n]*)|{_STRING}")
_BLOCKS = re.compile(rf"{_STRING}|(?P<word>\w+)|(?P<open>[{{<])|(?P<close>[}}>])")


class TextFile(NamedTuple):
    """A parsed file: the message, and the line (from 1) where each of its blocks begins, as ("layer", 3)."""

    message: Any
    lines: dict[tuple[str, int], int]
    name: str

    def where(self, block: str, number: int) -> str:
        """`FILE line N` of a block; `FILE` alone when the text does not hold it."""
        place = (block, number)
        return f"{self.name} line {self.lines[place]}" if place in self.lines else self.name


def read_text(path: str | Path, kind: str) -> TextFile:
    """A prototxt file as message `kind` (`NetParameter`, `SolverParameter`). DataError with line, column."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"prototxt {path} does not exist")
    data = path.read_bytes()
    if b"\0" in data:
        raise DataError(f"{path} is not a text file; give a .prototxt, not a .caffemodel")
    # comments come in any encoding
    text = data.decode("utf-8-sig", errors="surrogateescape")
    return parse_text(text.replace("\r\n", "\n").replace("\r", "\n"), kind, str(path))


def parse_text(text: str, kind: str, name: str = "text") -> TextFile:
    """Protobuf text -> message `kind`. DataError with `name`, line and column of what is wrong.

    Parameters of layer types that this program does not know (`xyz_param { ... }`) are read over.
    """
    from google.protobuf import text_format

    text = _COMMENTS.sub(lambda found: _blank(found[0]) if found["comment"] else found[0], text)
    if stray := re.search("[\udc80-\udcff]", text):
        line, column = text.count("\n", 0, stray.start()) + 1, stray.start() - text.rfind("\n", 0, stray.start())
        raise DataError(f"{name}:{line}:{column}: a byte that is no UTF-8, which only comments may hold")
    message, (lines, foreign) = messages()[kind](), _blocks(text)
    for start, end in foreign:
        text = text[:start] + _blank(text[start:end]) + text[end:]
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        place = f"{name}:{error.GetLine()}:{error.GetColumn()}"
        raise DataError(f"{place}: {_explained(str(error))}") from error
    return TextFile(message, lines, name)


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def _blocks(text: str) -> tuple[dict[tuple[str, int], int], list[tuple[int, int]]]:
    """Lines of the outermost blocks, and spans of the layers' parameter blocks that no message has."""
    known = set(messages()["LayerParameter"].DESCRIPTOR.fields_by_name)
    known |= set(messages()["V1LayerParameter"].DESCRIPTOR.fields_by_name)
    lines: dict[tuple[str, int], int] = {}
    foreign, counts = [], Counter[str]()
    stack: list[tuple[str, int]] = []
    line, counted, last, start = 1, 0, "", 0
    for found in _BLOCKS.finditer(text):
        if found["word"]:
            last, start = found["word"], found.start()
        elif found["open"]:
            if not stack:
                line, counted = line + text.count("\n", counted, start), start
                lines[last, counts[last]] = line
                counts[last] += 1
            stack.append((last, start))
        elif found["close"] and stack:
            last, start = stack.pop()  # further entries of a list have its name
            if stack and stack[-1][0] in ("layer", "layers") and last.endswith("_param") and last not in known:
                foreign.append((start, found.end()))
            start = found.end()
    return lines, foreign


def _explained(error: str) -> str:
    """protobuf's message without the place and the line's text, with what could have been meant."""
    words = re.sub(r"^\d+:\d+ : ('.*': )?", "", error)[:300]
    if found := re.match(r'Message type "caffe\.(\w+)" has no field named "(\w+)"', words):
        known = list(messages()[found[1]].DESCRIPTOR.fields_by_name)
        near = difflib.get_close_matches(found[2], known, 1)
        return words + (f" Did you mean {near[0]}?" if near else f" Known: {', '.join(known)}.")
    if found := re.match(r'Enum type "caffe\.\w+\.(\w+)"', words):
        return f"{words} Known: {', '.join(ENUMS[found[1]])}."
    return words
