"""JSON from elsewhere: a list read entry by entry, and errors that say where in the file.

A large list is not in memory as Python objects, nor as text. Files are UTF-8, with or without the mark that
some programs put first (BOM).
"""

from __future__ import annotations

import codecs
import contextlib
import json
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

from components.errors import InputError

#: Bytes read at a time, at least.
_CHUNK: Final = 1 << 20

_DECODER: Final = json.JSONDecoder()


def load(path: Path) -> Any:
    """Read a JSON file as a whole.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    object
        Of whatever kind the file holds.

    Raises
    ------
    InputError
        SW-101 where there is no such file, SW-102 where it is not JSON or nested too deeply.
    """
    with _coded(path):
        try:
            return json.loads(path.read_text(encoding="utf-8-sig"))
        except RecursionError:
            msg = "it is nested too deeply"
            raise ValueError(msg) from None


def entries(path: Path) -> Iterator[Any]:
    """Read a JSON list, one entry after the other.

    Parameters
    ----------
    path : Path
        The file. Its longest entry must fit in memory.

    Yields
    ------
    object
        Entries in the order of the file.

    Raises
    ------
    InputError
        SW-101 where there is no such file. SW-102 where it is not a JSON list, or an entry is nested too
        deeply, with the number of the entry (counted from 0) and the byte of the file.
    """
    with _coded(path), path.open("rb") as f:
        reader = _Reader(f)
        if reader.next_character() != "[":
            msg = "it is not a list"
            raise ValueError(msg)
        reader.at += 1
        if reader.next_character() == "]":
            reader.at += 1
        else:
            mark = ","
            while mark == ",":
                yield reader.value()
                mark = reader.next_character()
                if mark not in ",]":
                    raise reader.error(f"`{mark}` where a comma or the end of the list should be")
                reader.at += 1
                reader.number += 1
        reader.end()


class _Reader:
    """A file read from the front: the text at hand, and the place in it."""

    def __init__(self, file: BufferedReader) -> None:
        self.text, self.at = "", 0
        self.number = 0  # of the entry that is read, from 0
        self._file = file
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._ended = False
        mark = file.peek(len(codecs.BOM_UTF8)).startswith(codecs.BOM_UTF8)
        self._first = (
            len(file.read(len(codecs.BOM_UTF8))) if mark else 0
        )  # byte of the text's begin

    def next_character(self) -> str:
        while True:
            while self.at < len(self.text) and self.text[self.at].isspace():
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            self._more()
            if self._ended:
                raise self.error("the list breaks off")

    def value(self) -> Any:
        self.next_character()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except RecursionError:
                raise self.error("it is nested too deeply") from None
            except json.JSONDecodeError as e:
                if self._ended:
                    raise self.error(e.msg, e.pos) from e
            except ValueError as e:  # numbers of thousands of digits
                if self._ended:
                    raise self.error(str(e)) from e
            else:
                if end < len(self.text) or self._ended:  # a number at the end may go on
                    self.at = end
                    return value
            self._more()

    def end(self) -> None:
        while not self._ended:
            if self.text[self.at :].strip():
                break
            self.at = len(self.text)
            self._more()
        if self.text[self.at :].strip():
            msg = "there is more after the list"
            raise ValueError(msg)

    def error(self, what: str, at: int | None = None) -> ValueError:
        byte = self._first + len(self.text[: self.at if at is None else at].encode())
        return ValueError(f"entry {self.number} (counted from 0), byte {byte}: {what}")

    def _more(self) -> None:
        self._first += len(self.text[: self.at].encode())
        rest = self.text[self.at :]
        data = self._file.read(max(_CHUNK, len(rest)))  # doubles, so that long entries cost little
        self._ended = not data
        try:
            self.text, self.at = rest + self._utf8.decode(data, final=self._ended), 0
        except UnicodeDecodeError as e:  # its place is that in the bytes that it was given
            msg = f"byte {self._file.tell() - len(e.object) + e.start} is not UTF-8"
            raise ValueError(msg) from e


@contextlib.contextmanager
def _coded(path: Path) -> Iterator[None]:
    """Code what reading a JSON file can run into."""
    try:
        yield
    except FileNotFoundError as e:
        raise InputError("SW-101", "no such file", path=path) from e
    except (OSError, ValueError) as e:
        raise InputError("SW-102", f"not the JSON expected: {e}", path=path) from e
