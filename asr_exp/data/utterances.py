"""The rows of a corpus, kept in columns. An utterance costs its text and some eighty bytes, where an object
would cost a kilobyte.
"""

import copy
import io
import os
import re
import stat
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO, overload

import numpy as np

from asr_exp.core.console import printable
from asr_exp.data.columns import CategoricalColumn, PackedStrings

# Control characters that are no white space, and halves of surrogate pairs: no sound stands for them.
_NO_TEXT = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff]")
# the same in UTF-8 (there are no other bytes of these values), and what `printable` changes
_NO_TEXT_BYTES = re.compile(rb"[\x00-\x08\x0e-\x1b\x7f]|\xc2[\x80-\x84\x86-\x9f]|\xed[\xa0-\xbf]")
_NO_NAME = re.compile(rb"[\x00-\x1f\x7f]|\xc2[\x80-\x9f]|\xed[\xa0-\xbf]|\xe2\x80[\xa8\xa9]")
_KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "named pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


def kind_of_file(path: str | os.PathLike) -> str:
    """What stands in the place of a file: "named pipe", "device" ...; '' for a file. Nothing is opened, which
    for a pipe would wait for ever. Raises OSError where there is nothing, ValueError where there can be none.
    """
    return _KINDS.get(stat.S_IFMT(os.stat(path).st_mode), "")


@dataclass(frozen=True, slots=True)
class FileAudio:
    """An audio file, or the part of it between `start` and `end` (seconds)."""

    path: str
    start: float | None = None
    end: float | None = None

    def identity(self) -> tuple:
        """What the audio store names its shards by. Raises OSError where there is no such file."""
        try:
            stat = os.stat(self.path)
        except ValueError as why:  # no file can have that name
            raise FileNotFoundError(str(self)) from why
        # the same in any working directory
        path = self.path if os.path.isabs(self.path) else os.path.abspath(self.path)
        return (path, stat.st_size, stat.st_mtime_ns, self.start, self.end)

    def open(self) -> str | BinaryIO:
        """What soundfile opens: the path, or the contents of a file whose name is not UTF-8.

        Raises OSError where there is no file of that name, ValueError for what is none: a folder, a pipe.
        """
        if kind := kind_of_file(self.path):
            raise ValueError(f"it is a {kind}, not a file")
        try:
            self.path.encode()
        except UnicodeEncodeError:
            with open(self.path, "rb") as file:
                return io.BytesIO(file.read())
        return self.path

    def __str__(self) -> str:
        return printable(self.path)


@dataclass(frozen=True, slots=True)
class TableAudio:
    """Audio in a row of a `datasets.Dataset` whose audio column is not decoded: encoded bytes, or a path."""

    table: Any
    row: int
    column: str = "audio"
    start: float | None = None
    end: float | None = None

    def identity(self) -> tuple:
        """What the audio store names its shards by."""
        return (table_fingerprint(self.table), self.row, self.column, self.start, self.end)

    def open(self) -> str | BinaryIO:
        """What soundfile opens: the bytes as a file, or a path."""
        cell = self.table[self.row][self.column]
        return io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"]

    def __str__(self) -> str:
        return f"row {self.row} of {self.table.info.dataset_name or 'the hub dataset'}"


def table_fingerprint(table: Any) -> str:
    """The hash by which `datasets` tells what a table was made of.

    A private attribute, `Dataset._fingerprint`, seen with datasets 4.6 to 5.2. Without it this raises
    AttributeError: audio in tables has no other name that stays the same from run to run.
    """
    return table._fingerprint


@dataclass(frozen=True, slots=True)
class Utterance:
    """One row of a corpus. text: as the corpus has it, or, after `normalise`, as the text rules make it."""

    id: str
    audio: FileAudio | TableAudio
    text: str
    speaker: str | None = None


class Utterances(Sequence[Utterance]):
    """Utterances in columns. Indexing makes an `Utterance`; a slice or `take` selects rows and shares the
    columns.
    """

    def __init__(self, rows: Iterable[Utterance] = ()):
        self._ids = PackedStrings()
        self._files = PackedStrings()
        self._texts = PackedStrings()
        self._places, self._speakers = CategoricalColumn(), CategoricalColumn()
        self._spans = array("d")  # start and end of each in seconds, nan for None
        # The rows of a selection in the columns, and in the column of texts; None: every row, in order.
        self._rows: np.ndarray | None = None
        self._text_rows: np.ndarray | None = None
        self._originals: Utterances | None = None
        for row in rows:
            self.append(row)

    def append(self, row: Utterance) -> None:
        """Add a row. It cannot be added to a selection."""
        audio = row.audio
        if isinstance(audio, FileAudio):
            cut = audio.path.rfind("/") + 1
            self._places.append(audio.path[:cut], audio.path[:cut])
            self._files.append(audio.path[cut:])
        elif isinstance(audio, TableAudio):
            self._places.append((id(audio.table), audio.column), audio)
            self._files.append(str(audio.row))
        else:  # of a plugin
            self._places.append(id(audio), audio)
            self._files.append("")
        for time in (audio.start, audio.end):
            self._spans.append(np.nan if time is None else time)
        self._ids.append(row.id)
        self._texts.append(row.text)
        self._speakers.append(row.speaker, row.speaker)

    def __len__(self) -> int:
        return len(self._ids) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Utterance: ...
    @overload
    def __getitem__(self, index: slice) -> "Utterances": ...
    def __getitem__(self, index: int | slice) -> "Utterance | Utterances":
        number = range(len(self))[index]
        if isinstance(number, range):
            return self.take(np.arange(number.start, number.stop, number.step))
        row = self._row(number)
        return Utterance(self._ids[row], self.audio(number), self.text(number), self._speakers[row])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(a == b for a, b in zip(self, other, strict=True))
        )

    def take(self, indices: np.ndarray) -> "Utterances":
        """A selection of rows, in the order of the indices."""
        selection = copy.copy(self)
        selection._rows = _select(self._rows, indices)
        selection._text_rows = _select(self._text_rows, indices)
        selection._originals = self._originals and self._originals.take(indices)
        return selection

    def with_texts(self, texts: PackedStrings, keep: bool = False) -> "Utterances":
        """The same utterances with other texts, of which there are as many. keep: remember the texts that
        they had, for `original_text`.
        """
        other = copy.copy(self)
        other._texts, other._text_rows = texts, None
        other._originals = self if keep else None
        return other

    def cleaned(self) -> "Utterances":
        """The same utterances with ids and speakers as they can be printed, and texts without control
        characters and halves of surrogate pairs; this object where they are so already.
        """
        names = PackedStrings(value for value in self._speakers.values if value is not None)
        if not (self._ids.match(_NO_NAME) or names.match(_NO_NAME) or self._texts.match(_NO_TEXT_BYTES)):
            return self
        return Utterances(
            Utterance(
                printable(row.id),
                row.audio,
                _NO_TEXT.sub("", row.text),
                row.speaker and printable(row.speaker),
            )
            for row in self
        )

    # ------------------------------------------------------------------------------------------------------
    # a cell, a column

    def audio(self, index: int) -> Any:
        """The audio of an utterance: FileAudio, TableAudio, or what a plugin's reader gave."""
        row = self._row(index)
        place = self._places[row]
        start = self._spans[2 * row]
        end = self._spans[2 * row + 1]
        span = (None if np.isnan(start) else start, None if np.isnan(end) else end)
        if isinstance(place, str):
            return FileAudio(place + self._files[row], *span)
        if isinstance(place, TableAudio):
            return TableAudio(place.table, int(self._files[row]), place.column, *span)
        return place

    def text(self, index: int) -> str:
        return self._texts[index if self._text_rows is None else self._text_rows[index]]

    def original_text(self, index: int) -> str:
        """The text that an utterance had before `with_texts`, where that was kept; else its text."""
        return (self if self._originals is None else self._originals).text(index)

    def ids(self) -> Iterator[str]:
        return (self._ids[self._row(i)] for i in range(len(self)))

    def texts(self) -> Iterator[str]:
        return (self.text(i) for i in range(len(self)))

    def speakers(self) -> Iterator[str | None]:
        return (self._speakers[self._row(i)] for i in range(len(self)))

    def _row(self, index: int) -> int:
        return index if self._rows is None else int(self._rows[index])

    @classmethod
    def join(cls, parts: Sequence["Utterances"]) -> "Utterances":
        """The rows of all parts, one part after the other."""
        return parts[0] if len(parts) == 1 else cls(chain.from_iterable(parts))


def _select(rows: np.ndarray | None, indices: np.ndarray) -> np.ndarray:
    """The rows of a selection from a selection."""
    return (indices if rows is None else rows[indices]).astype(np.int32)
