"""Manifests: CSV, TSV, JSON and JSON Lines files that name audio files and their transcripts."""

import codecs
import csv
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_exp.config.data_schema import Columns
from asr_exp.core.errors import UserError, nearest
from asr_exp.data.corpora.base import (
    SPLITS,
    Corpus,
    FileAudio,
    Rejected,
    Utterance,
    Utterances,
    as_list,
    register_reader,
)
from asr_exp.data.corpora.splits import Rows, complete, gather

_SPLIT_NAMES = {**{s: s for s in SPLITS}, "validation": "dev", "valid": "dev", "val": "dev"}


@dataclass(frozen=True, slots=True)
class _Row:
    """A row: the line of the file it begins on (or its number, in a JSON list), and its cells, or why there
    are none.
    """

    number: int
    cells: dict[str, Any]
    broken: str | None = None


@register_reader("manifest")
def read_manifest(dataset: Any, cache: Path) -> Corpus:
    """`dataset.train`, `.dev` and `.test` are paths. One manifest alone is split by its split column, if it
    has one.

    A dev or test that is not given is carved out of train.
    """
    named = {path: f"dataset.{split}" for split in reversed(SPLITS) for path in as_list(dataset[split])}
    if not dataset.train and not (dataset.only and named):
        raise UserError(
            f"dataset={dataset.name} needs a manifest: "
            + (
                f"dataset.{dataset.only}=FILE."
                if dataset.only
                else "dataset.train=FILE (without dataset.dev and dataset.test, they are carved out of it)."
            )
        )
    if len(named) == 1:
        ((path, key),) = named.items()
        rows = _load(path, key, dataset)
        if any(dataset.columns.split in row.cells for row in rows):
            return _by_split_column(Path(os.path.expanduser(path)), rows, dataset)
    # The protocol says which manifests, not where a machine keeps them.
    return gather(
        dataset, lambda path, key: _read(path, key, dataset), "the manifest", label=os.path.basename
    )


def _read(path: str, key: str, dataset: Any) -> Rows:
    rows: Rows = (Utterances(), [])
    columns = Columns(**dataset.columns)
    for row in _load(path, key, dataset):
        _add(rows, _utterance(Path(os.path.expanduser(path)), row, columns))
    return rows


def _by_split_column(file: Path, rows: list[_Row], dataset: Any) -> Corpus:
    columns = Columns(**dataset.columns)
    column = columns.split
    corpus = Corpus(splits={})
    for row in rows:
        given = str(row.cells.get(column or "") or "")
        split = _SPLIT_NAMES.get(given.strip().lower())
        result = _utterance(file, row, columns)
        if split is None and not row.broken:
            result = Rejected(
                f"{file.name}:{row.number}",
                str(file),
                f"row {row.number}: its {column} {given!r} is not train, dev or test "
                "(dataset.columns.split=null ignores that column)",
            )
        split = split or "train"
        corpus.subsets[split] = [f"{file.name}[{column}={split}]"]
        _add((corpus.splits.setdefault(split, Utterances()), corpus.rejected[split]), result)
    if dataset.only and dataset[dataset.only] and dataset.only not in corpus.splits:
        raise UserError(
            f"dataset.{dataset.only}={file}: by its column {column} no row is of {dataset.only}, they are of "
            f"{', '.join(corpus.splits)}; dataset.columns.split=null ignores that column."
        )
    return complete(corpus, dataset, str(file))


def _add(rows: Rows, result: Utterance | Rejected) -> None:
    if isinstance(result, Utterance):
        rows[0].append(result)
    else:
        rows[1].append(result)


_MEANING = {"file": "audio's path", "text": "transcript", "id": "utterance's id"}


def _load(path: str, key: str, dataset: Any) -> list[_Row]:
    """The rows of a manifest, which has the columns it must have. Raises UserError where it has not."""
    file = Path(os.path.expanduser(path))
    if not file.is_file():
        raise UserError(f"{key}={path} is not a file (looked in {Path.cwd()}); give the path of a manifest.")
    rows = _rows(file, dataset.delimiter, {column for column in dataset.columns.values() if column})
    columns = list(dict.fromkeys(name for row in rows for name in row.cells))
    wanted = {
        setting: dataset.columns[setting] for setting in _MEANING if dataset.columns[setting] is not None
    }
    missing = [setting for setting, column in wanted.items() if column not in columns]
    if missing and columns:
        names = " and no column ".join(repr(wanted[s]) for s in missing)
        if len(columns) == 1 and (sign := next((sign for sign in ";\t|," if sign in columns[0]), None)):
            ask = {"\t": "dataset=tsv", ",": "dataset=csv"}.get(sign, f"'dataset.delimiter=\"{sign}\"'")
            raise UserError(
                f"{file} has no column {names}; its first line is {columns[0]!r}, whose columns seem to be"
                f" parted by {sign!r}: {ask}."
            )
        raise UserError(
            f"{file} has no column {names}; its columns:"
            f" {', '.join(columns)}.{nearest(wanted[missing[0]], columns)} Name what holds the"
            f" {' and the '.join(_MEANING[s] for s in missing)}:"
            f" {' '.join(f'dataset.columns.{s}=COLUMN' for s in missing)}."
        )
    return rows


def _utterance(file: Path, row: _Row, columns: Columns) -> Utterance | Rejected:
    """The utterance a row holds, or why it holds none."""
    path = ""
    try:
        if row.broken:
            raise ValueError(row.broken)
        path = _cell(row, columns.file)
        text = row.cells.get(columns.text)
        if text is None or isinstance(text, dict | list):
            raise ValueError(f"it has no {columns.text}")
        start, end = _seconds(row, columns.start), _seconds(row, columns.end)
        if end is not None and end <= (start or 0):
            raise ValueError(f"its end, {end}, is not after its start, {start or 0}")
        speaker = None if columns.speaker is None else row.cells.get(columns.speaker)
        name = path if columns.id is None else _cell(row, columns.id)
        audio = FileAudio(str(file.parent / os.path.expanduser(path)), start, end)
        return Utterance(name, audio, str(text), None if speaker in (None, "") else str(speaker))
    except ValueError as error:
        return Rejected(f"{file.name}:{row.number}", path or str(file), f"row {row.number}: {error}")


def _cell(row: _Row, column: str) -> str:
    value = row.cells.get(column)
    if value is None or not str(value).strip() or isinstance(value, dict | list):
        raise ValueError(f"it has no {column}")
    return str(value).strip()


def _seconds(row: _Row, column: str | None) -> float | None:
    value = None if column is None else row.cells.get(column)
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"its {column}, {value!r}, is not a number of seconds")
    return seconds


# ------------------------------------------------------------------------------------------------------------
# the formats


def _rows(file: Path, delimiter: str | None, used: set[str]) -> list[_Row]:
    """The rows of a manifest, by its ending. Raises UserError for a file that is empty, no text, neither
    UTF-8 nor marked UTF-16, or has two of a column that is used.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(4096)
        marked = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        if b"\0" in start and not marked:
            raise UserError(f"{file} is not UTF-8 text; a manifest is CSV, TSV, JSON or JSON Lines.")
        with file.open(encoding="utf-16" if marked else "utf-8-sig", newline="") as stream:
            lines = list(stream)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not UTF-8 (byte {error.start}: {error.reason}); "
            f"convert it: iconv -f ITS_ENCODING -t UTF-8 {file.name} > NEW."
        ) from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error
    ending = file.suffix.lower()
    if ending in (".json", ".jsonl", ".ndjson") and delimiter is None:
        rows = list(_json_list(file, lines) if ending == ".json" else _json_lines(lines))
    else:
        rows = list(_table(file, lines, delimiter or ("\t" if ending in (".tsv", ".tab") else ","), used))
    if not rows:
        first = next((line.strip() for line in lines if line.strip()), "")
        what = f"has no row of an utterance, only {first[:40]!r}" if first else "is empty"
        raise UserError(
            f"{file} {what}; a manifest has a row an utterance, with the columns that dataset.columns names."
        )
    return rows


def _table(file: Path, lines: list[str], delimiter: str, used: set[str]) -> Iterator[_Row]:
    if len(delimiter) != 1:
        raise UserError(f"dataset.delimiter={delimiter!r} is not one character.")
    header: list[str] | None = None
    for number, cells in _tab_separated(lines) if delimiter == "\t" else _separated(lines, delimiter):
        if isinstance(cells, str):
            yield _Row(number, {}, cells)
        elif not any(cell.strip() for cell in cells):
            continue
        elif header is None:
            header = [name.strip() for name in cells]
            if twice := next((name for name in header if name in used and header.count(name) > 1), None):
                raise UserError(
                    f"{file} has {header.count(twice)} columns {twice!r}; rename those that are not meant."
                )
        elif len(cells) < len(header) or any(cells[len(header) :]):
            yield _Row(
                number,
                {name: None for name in header},
                f"it has {len(cells)} fields where the header names {len(header)}",
            )
        else:
            yield _Row(number, dict(zip(header, cells, strict=False)))


def _separated(lines: list[str], delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """(line number, cells, or why there are none) of quoted CSV. After a broken row, reading goes on with the
    next line.
    """
    csv.field_size_limit(2**31 - 1)
    begin = 0
    while begin < len(lines):
        start = begin
        # Strict, for an unclosed quotation mark would silently swallow the rows after it.
        reader = csv.reader((lines[i] for i in range(start, len(lines))), delimiter=delimiter, strict=True)
        try:
            for cells in reader:
                yield begin + 1, cells
                begin = start + reader.line_num
        except csv.Error as error:
            yield begin + 1, f"it is not valid CSV: {error}"
            begin += 1


def _tab_separated(lines: list[str]) -> Iterator[tuple[int, list[str] | str]]:
    """Tab-separated lines hold stray quotation marks more often than quoted cells: only a cell quoted as a
    whole is unquoted.
    """
    for number, line in enumerate(lines, 1):
        cells = line.rstrip("\r\n").split("\t")
        yield (
            number,
            [c[1:-1].replace('""', '"') if len(c) > 1 and c[0] == c[-1] == '"' else c for c in cells],
        )


def _json_list(file: Path, lines: list[str]) -> Iterator[_Row]:
    """[{...}, ...], {"data": [{...}, ...]}, or JSON Lines under the wrong ending."""
    if not any(line.strip() for line in lines):
        return iter(())
    try:
        content = json.loads("".join(lines))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return _json_lines(lines)
        raise UserError(
            f"{file} is not valid JSON: line {error.lineno}, {error.msg}. It should hold a list of objects."
        ) from error
    rows = content.get("data", [content]) if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise UserError(f'{file} holds no list of objects; write [{{...}}, ...] or {{"data": [...]}}.')
    return (_json_row(number, row) for number, row in enumerate(rows, 1))


def _json_lines(lines: list[str]) -> Iterator[_Row]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield _json_row(number, json.loads(line))
            except json.JSONDecodeError as error:
                yield _Row(number, {}, f"it is not valid JSON: {error.msg}")


def _json_row(number: int, row: Any) -> _Row:
    return _Row(number, row) if isinstance(row, dict) else _Row(number, {}, "it is not a JSON object")
