"""The rows of CSV, TSV, JSON and JSON Lines files."""

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asr_exp.config.data_schema import Columns
from asr_exp.core.errors import UserError

TOLERATED = 0.01  # share of the transcripts that may be damaged bytes; with more, the encoding is another
_FILE_NAMES = ("utf-8-sig", "surrogateescape")  # as Python decodes names of files
_ESCAPED_BYTE = re.compile("[\ud800-\udfff]")
_MARKS = re.compile(r'"(?:[^"\\]|\\.)*"|[][{},]')  # strings and brackets of JSON


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a manifest.

    number: the line of the file on which it begins (in JSON, its number in the list); cells: by column;
    broken: why the cells cannot be read, if so.
    """

    number: int
    cells: dict[str, Any]
    broken: str | None = None


def read_rows(file: Path, delimiter: str | None, columns_of: Callable[[Sequence[str]], Columns]) -> list[Row]:
    """Read the rows of a manifest, whose format its ending tells.

    delimiter: stands between the cells of a line (None: a tab in .tsv and .tab, else a comma). columns_of:
    names of all columns -> those that are used. Raises UserError for a file that is empty, whose transcripts
    are not UTF-8 (or UTF-16 with its mark), or that has a column twice that is used.
    """
    try:
        lines, undecodable = _lines(file)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error
    ending = file.suffix.lower()
    if ending in (".json", ".jsonl", ".ndjson") and delimiter is None:
        rows = list(_json_list(file, lines) if ending == ".json" else _json_lines(lines))
    else:
        separator = delimiter or ("\t" if ending in (".tsv", ".tab") else ",")
        rows = list(_table(file, lines, separator, columns_of))
    if not rows:
        first = next((line.strip() for line in lines if line.strip()), "")
        problem = f"has no row of an utterance, only {first[:40]!r}" if first else "is empty"
        raise UserError(
            f"{file} {problem}; a manifest has a row an utterance, with the columns that dataset.columns"
            " names."
        )
    if undecodable:
        names = list(dict.fromkeys(name for row in rows for name in row.cells))
        text = columns_of(names).text
        damaged = sum(_ESCAPED_BYTE.search(str(row.cells.get(text))) is not None for row in rows)
        if damaged > TOLERATED * len(rows) or any(map(_ESCAPED_BYTE.search, names)):
            raise UserError(undecodable)
    return rows


def _lines(file: Path) -> tuple[list[str], str]:
    """The lines of a text file, and, where it is not all UTF-8, what to say of that: names of files may be
    none, and one damaged row is no reason to refuse the others. Raises UserError for a file that is no text.
    """
    with file.open("rb") as stream:
        start = stream.read(4096)
    marked = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    head = start.partition(b"\n")[0]
    binary = (
        b"\0" in head and not head.lstrip().startswith((b"{", b"[")) or start.count(0) > 1 + len(start) // 10
    )
    if binary and not marked:
        raise UserError(f"{file} is not UTF-8 text; a manifest is CSV, TSV, JSON or JSON Lines.")
    try:
        with file.open(encoding="utf-16" if marked else "utf-8-sig", newline="") as stream:
            return list(stream), ""
    except UnicodeDecodeError as error:
        problem = (
            f"{file} is not UTF-{'16' if marked else '8'} (byte {error.start}: {error.reason}); "
            f"convert it: iconv -f ITS_ENCODING -t UTF-8 {file.name} > NEW."
        )
    try:
        encoding, errors = ("utf-16", "surrogatepass") if marked else _FILE_NAMES
        with file.open(encoding=encoding, errors=errors, newline="") as stream:
            return list(stream), problem
    except UnicodeDecodeError as error:
        raise UserError(problem) from error


def _table(
    file: Path, lines: list[str], delimiter: str, columns_of: Callable[[Sequence[str]], Columns]
) -> Iterator[Row]:
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
            columns = asdict(columns_of(header)).values()
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
    text = "".join(lines)
    try:
        content = _loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return _json_lines(lines)
        raise UserError(
            f"{file} is not valid JSON: line {error.lineno}, {error.msg}. It should hold a list of objects."
        ) from error
    except (ValueError, RecursionError):  # in one of the rows
        elements = list(_elements(text))
        return _json_rows(enumerate(elements, 1)) if elements else _json_lines(lines)
    rows = content.get("data", [content]) if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise UserError(f'{file} holds no list of objects; write [{{...}}, ...] or {{"data": [...]}}.')
    return (_json_row(number, row) for number, row in enumerate(rows, 1))


def _elements(text: str) -> Iterator[str]:
    """The elements of a list in JSON, each as its text: of the outermost list, or of that under "data"."""
    depth = within = begin = 0
    last = ""
    for mark in _MARKS.finditer(text):
        sign = mark.group()
        if sign in ("[", "{"):
            depth += 1
            if sign == "[" and not within and (depth == 1 or depth == 2 and last == '"data"'):
                within = depth
                begin = mark.end()
        elif depth == within and within and sign in (",", "]"):
            yield text[begin : mark.start()]
            begin = mark.end()
        if sign in ("]", "}"):
            depth -= 1
            if depth < within:
                return
        last = sign


def _json_lines(lines: list[str]) -> Iterator[Row]:
    return _json_rows((number, line) for number, line in enumerate(lines, 1) if line.strip("\ufeff \t\r\n"))


def _json_rows(numbered: Iterable[tuple[int, str]]) -> Iterator[Row]:
    """The rows of texts that hold an object each. What is wrong with one leaves the others as they are."""
    for number, text in numbered:
        try:
            yield _json_row(number, _loads(text.lstrip("\ufeff")))
        except json.JSONDecodeError as error:
            yield Row(number, {}, f"it is not valid JSON: {error.msg}")
        except RecursionError:
            yield Row(number, {}, "its brackets are nested too deeply to be read")
        except ValueError as error:
            reason = (
                str(error) if isinstance(error, _TwoValues) else "it holds a number of thousands of digits"
            )
            yield Row(number, {}, reason)


class _TwoValues(ValueError):
    """A key stands twice in an object, with two values."""


def _loads(text: str) -> Any:
    """Read JSON. Raises ValueError and RecursionError for what cannot be read, and for a key with two values,
    of which `json` would take the last.
    """
    value = json.loads(text)
    rows = value if isinstance(value, list) else [value]
    keys = sum(len(row) for row in rows if isinstance(row, dict))
    # looking for them takes a while: only where there are more colons than keys
    return (
        json.loads(text, object_pairs_hook=_object) if text.count('":') + text.count('" :') > keys else value
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises _TwoValues for a key with two values."""
    row: dict[str, Any] = {}
    for key, value in pairs:
        if row.setdefault(key, value) != value:
            raise _TwoValues(f"it names {key!r} twice, with two values")
    return row


def _json_row(number: int, row: Any) -> Row:
    return Row(number, row) if isinstance(row, dict) else Row(number, {}, "it is not a JSON object")
