"""Cells in, a table out: every run at its row and column, and scores of different protocols in entries of
their own. Pure functions.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from asr_exp.commands.table.rows import Entry, ResultTable, ScoringProtocol, TableCell


def arrange(
    name: str,
    cells: Sequence[TableCell],
    rows: Sequence[str],
    columns: Sequence[str] = (),
    mean_over: Sequence[str] = ("seed",),
) -> ResultTable:
    """Put runs in rows and columns; those that differ in `mean_over` alone make one entry.

    Args:
        name: the table's name.
        cells: the runs, read from their folders.
        rows: the keys whose values name a row.
        columns: the keys whose values name a column; none for a list of rows.
        mean_over: the keys that a mean is taken over.

    Returns:
        The table, its entries in the order in which their places first come up in `cells`.
    """
    cells = apart_by_data(cells)
    protocols = _protocols(cells)
    letters = {_identity(one.parts): one.letter for one in protocols}
    places: dict[tuple[str, str], list[TableCell]] = {}
    folders = {cell.keys.get("experiment", "").rpartition("/")[0] for cell in cells}
    for cell in cells:
        keys = dict(cell.keys)
        if len(folders) == 1 and "experiment" in keys:
            keys["experiment"] = keys["experiment"].rpartition("/")[2]
        place = (_label(keys, rows) or cell.title, _label(keys, columns))
        places.setdefault(place, []).append(cell)
    entries = [
        entry
        for (row, column), runs in places.items()
        for entry in _entries(Entry(row, column, tuple(runs), (), "", tuple(mean_over), {}), letters)
    ]
    return ResultTable(
        name=name,
        row_keys=tuple(rows),
        column_keys=tuple(columns),
        mean_over=tuple(mean_over),
        entries=tuple(entries),
        protocols=tuple(protocols),
        letters_on=_letters_on(places),
    )


def apart_by_data(cells: Sequence[TableCell]) -> list[TableCell]:
    """The cells, where scores of one protocol are of different transcripts with those in their protocols.

    A score that does not say which transcripts it is of stays with the first.
    """
    known: dict[str, dict[str, None]] = {}
    for cell in cells:
        if cell.score and cell.score.data:
            known.setdefault(_identity(cell.score.protocol), {})[cell.score.data] = None

    def marked(cell: TableCell) -> TableCell:
        score = cell.score
        first = list(known.get(_identity(score.protocol), [])) if score else []
        if not score or not score.data or len(first) < 2 or score.data == first[0]:
            return cell
        return replace(cell, score=replace(score, protocol={**score.protocol, "data": score.data}))

    return [marked(cell) for cell in cells]


def _entries(place: Entry, letters: Mapping[str, str]) -> list[Entry]:
    """The entries of a place: one for each protocol that its runs were scored by, or one without a score.

    place: an entry of all its runs, none of them counted as scored; letters: of protocols, by `_identity`.
    """
    by_letter: dict[str, list[TableCell]] = {}
    for cell in place.cells:
        if cell.score:
            by_letter.setdefault(letters[_identity(cell.score.protocol)], []).append(cell)
    entries: list[Entry] = []
    for letter, scored in by_letter.items() or [("", [])]:
        others = {
            place.run_name(cell): other
            for other, group in by_letter.items()
            if other != letter
            for cell in group
        }
        first = not entries
        entries.append(replace(place, scored=tuple(scored), letter=letter, other_letters=others, first=first))
    return entries


def _protocols(cells: Iterable[TableCell]) -> list[ScoringProtocol]:
    """The protocols of all scores, lettered in the order in which they come up."""
    protocols: dict[str, ScoringProtocol] = {}
    first: dict[str, Mapping[str, Any]] = {}
    for cell in cells:
        if cell.score and (identity := _identity(cell.score.protocol)) not in protocols:
            parts = cell.score.protocol
            before = first.setdefault(cell.material, parts)
            differs = [part for part in {**before, **parts} if before.get(part) != parts.get(part)]
            differs = [part for part in differs if part != "hash"] or differs
            letter = _letter(len(protocols))
            protocols[identity] = ScoringProtocol(letter, parts, cell.material, tuple(differs))
    return list(protocols.values())


def _identity(parts: Mapping[str, Any]) -> str:
    """All parts of a protocol as one string, so that a record whose hash does not fit its parts equals no
    other.
    """
    return json.dumps(parts, sort_keys=True)


def _letter(number: int) -> str:
    """A, B, ... Z, AA, AB ..."""
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def _label(values: Mapping[str, str], keys: Sequence[str]) -> str:
    """'wav2vec2-base, optimizer.lr 0.001': the values of these keys. A value that stands alone, or is the
    name of a config file, goes without its key.
    """
    named = [key if "." in key or key == "seed" else "" for key in keys] if len(keys) > 1 else [""]
    return ", ".join(f"{name} {values.get(key, '')}".strip() for name, key in zip(named, keys, strict=False))


def _letters_on(places: Mapping[tuple[str, str], Sequence[TableCell]]) -> str:
    """The axis of a grid that shows the protocols: 'rows' where each row has one material and a column has
    several, else 'columns'.
    """
    of_rows: dict[str, set[str]] = {}
    of_columns: dict[str, set[str]] = {}
    for (row, column), cells in places.items():
        materials = {cell.material for cell in cells if cell.signature}
        of_rows.setdefault(row, set()).update(materials)
        of_columns.setdefault(column, set()).update(materials)
    by_row = all(map(_at_most_one, of_rows.values())) and not all(map(_at_most_one, of_columns.values()))
    return "rows" if by_row else "columns"


def _at_most_one(materials: set[str]) -> bool:
    return len(materials) < 2


# ------------------------------------------------------------------------------------------------------------
# grids


@dataclass(frozen=True)
class Grid:
    """A table as a grid: the names of the columns; the rows, each with its name and the entries at every
    column (one at most, but for places that cannot be told apart).
    """

    columns: list[str]
    rows: list[tuple[str, list[list[Entry]]]]


def grid(table: ResultTable) -> Grid:
    """A column whose runs were scored by several protocols becomes several columns (a row several rows, where
    the rows show the protocols).
    """
    on_rows = table.letters_on == "rows"
    row_letters: dict[str, list[str]] = {}
    column_letters: dict[str, list[str]] = {}
    for entry in table.entries:
        of_row, of_column = row_letters.setdefault(entry.row, []), column_letters.setdefault(entry.column, [])
        letters = of_row if on_rows else of_column
        if entry.letter and entry.letter not in letters:
            letters.append(entry.letter)
    rows = [(label, letter) for label, letters in row_letters.items() for letter in letters or [""]]
    columns = [(label, letter) for label, letters in column_letters.items() for letter in letters or [""]]

    def entries_at(row: tuple[str, str], column: tuple[str, str]) -> list[Entry]:
        label, letter = row if on_rows else column
        first = ((row_letters if on_rows else column_letters)[label] or [""])[0]
        here = [entry for entry in table.entries if (entry.row, entry.column) == (row[0], column[0])]
        return [entry for entry in here if (entry.letter or first) == letter]

    def title(label: str, letter: str) -> str:
        return f"{label} ({letter})" if letter and len(table.protocols) > 1 else label

    body = [(title(*row), [entries_at(row, column) for column in columns]) for row in rows]
    return Grid([title(*column) for column in columns], body)
