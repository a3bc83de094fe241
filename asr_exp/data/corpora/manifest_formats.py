"""The rows of CSV, TSV, JSON and JSON Lines files."""

import codecs
import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_exp.core.errors import UserError


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a manifest.

    number: the line of the file on which it begins (in JSON, its number in the list); cells: by column;
    broken: why the cells cannot be read, if so.
    """

    number: int
    cells: dict[str, Any]
    broken: str | None = None


def read_rows(file: Path, delimiter: str | None, columns: set[str]) -> list[Row]:
    """Read the rows of a manifest, whose format its ending tells.

    delimiter: stands between the cells of a line (None: a tab in .tsv and .tab, else a comma). columns: those
    that are used. Raises UserError for a file that is empty, that is not text in UTF-8 (or UTF-16 with its
    mark), or that has one of `columns` twice.
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
        rows = list(_table(file, lines, delimiter or ("\t" if ending in (".tsv", ".tab") else ","), columns))
    if not rows:
        first = next((line.strip() for line in lines if line.strip()), "")
        problem = f"has no row of an utterance, only {first[:40]!r}" if first else "is empty"
        raise UserError(
            f"{file} {problem}; a manifest has a row an utterance, with the columns that dataset.columns"
            " names."
        )
    return rows


def _table(file: Path, lines: list[str], delimiter: str, columns: set[str]) -> Iterator[Row]:
    if len(delimiter) != 1:
        raise UserError(f"dataset.delimiter={delimiter!r} is not one character.")
    header: list[str] | None = None
    for number, cells in _tab_separated(lines) if delimiter == "\t" else _separated(lines, delimiter):
        if isinstance(cells, str):
            yield Row(number, {}, cells)
        elif not any(cell.strip() for cell in cells):
            continue
        elif header is None:
            header = [name.strip() for name in cells]
            if twice := next((name for name in header if name in columns and header.count(name) > 1), None):
                raise UserError(
                    f"{file} has {header.count(twice)} columns {twice!r}; rename those that are not meant."
                )
        elif len(cells) < len(header) or any(cells[len(header) :]):
            yield Row(
                number,
                {name: None for name in header},
                f"it has {len(cells)} fields where the header names {len(header)}",
            )
        else:
            yield Row(number, dict(zip(header, cells, strict=False)))


def _separated(lines: list[str], delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """Yield (line number, cells) of quoted CSV, or the reason in the place of the cells where a row is
    broken. After it, reading goes on with the next line.
    """
    csv.field_size_limit(2**31 - 1)
    begin = 0
    while begin < len(lines):
        start = begin
        # strict: otherwise an unclosed quotation mark silently takes the next rows into its cell
        reader = csv.reader((lines[i] for i in range(start, len(lines))), delimiter=delimiter, strict=True)
        try:
            for cells in reader:
                yield begin + 1, cells
                begin = start + reader.line_num
        except csv.Error as error:
            yield begin + 1, f"it is not valid CSV: {error}"
            begin += 1


def _tab_separated(lines: list[str]) -> Iterator[tuple[int, list[str] | str]]:
    """Yield (line number, cells) of tab-separated lines. Quotation marks are removed only from a cell that is
    quoted as a whole: stray ones are more frequent in such files.
    """
    for number, line in enumerate(lines, 1):
        cells = line.rstrip("\r\n").split("\t")
        yield (
            number,
            [c[1:-1].replace('""', '"') if len(c) > 1 and c[0] == c[-1] == '"' else c for c in cells],
        )


def _json_list(file: Path, lines: list[str]) -> Iterator[Row]:
    """The rows of [{...}, ...], of {"data": [{...}, ...]}, or of JSON Lines that have the suffix .json."""
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


def _json_lines(lines: list[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield _json_row(number, json.loads(line))
            except json.JSONDecodeError as error:
                yield Row(number, {}, f"it is not valid JSON: {error.msg}")


def _json_row(number: int, row: Any) -> Row:
    return Row(number, row) if isinstance(row, dict) else Row(number, {}, "it is not a JSON object")
