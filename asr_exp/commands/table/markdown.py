"""A table as Markdown that reads well in a terminal too, as CSV, and as the block of a page that says which
table it holds.

Rates are shown in percent, with two digits; the CSV has them as fractions, to the last digit.
"""

import csv
import io
import re
import shlex
import textwrap
from collections.abc import Iterable, Sequence

from asr_exp.commands.table.rows import APART, Entry, ResultTable, ScoringProtocol, command
from asr_exp.commands.table.scores import INTERVALS, VERDICTS
from asr_exp.core.console import duration
from asr_exp.core.errors import UserError

WIDTH = 80  # of wrapped text, in characters
# of a protocol
PARTS = {
    "ids": "utterances",
    "hash": "its hash alone",
    "text": "the name of the text rules",
    "rules": "text rules",
}
FIELDS = (
    "row",
    "column",
    "status",
    "metric",
    "published",
    "ours",
    "ci95_low",
    "ci95_high",
    "runs",
    "runs_asked",
    "difference",
    "verdict",
    "tolerance",
    "protocol",
    "protocol_hash",
    "protocol_parts",
    "coverage",
    "utterances",
    "published_split",
    "published_hardware",
    "published_time",
    "source",
    "hardware",
    "seconds",
    "notes",
    "command",
)


# ------------------------------------------------------------------------------------------------------------
# words


def points(rate: float | None, signed: bool = False) -> str:
    return "" if rate is None else f"{100 * rate:{'+' if signed else ''}.2f}"


def ours(entry: Entry) -> str:
    """'21.40 [20.52, 22.28]', or what has become of the runs."""
    if entry.mean is None:
        return entry.status
    within = entry.interval
    return points(entry.mean) + (f" [{points(within[0])}, {points(within[1])}]" if within else "")


def runs(entry: Entry) -> str:
    """'3', or '2 of 3' where not all are there."""
    return (
        f"{len(entry.scored)}"
        if len(entry.scored) == len(entry.cells)
        else f"{len(entry.scored)} of {len(entry.cells)}"
    )


def described(protocol: ScoringProtocol) -> str:
    """'timit test, WER, text hf_compat, greedy, padding exact, coverage 100 %': a protocol in words."""
    p = protocol.parts
    splits = p.get("split") or []
    split = "+".join(map(str, splits)) if isinstance(splits, list | tuple) else str(splits)
    where = " ".join(str(word) for word in (p.get("dataset"), p.get("language"), split) if word)
    phones = f"{p['inventory']} phones" if p.get("inventory") else ""
    parts = [
        p.get("name"),
        where,
        str(p.get("metric", "")).upper(),
        f"text {p.get('text')}",
        phones,
        p.get("decoder"),
        f"padding {p.get('padding')}",
    ]
    return (
        ", ".join(str(part) for part in parts if part) + f", coverage {100 * float(p.get('coverage', 1)):g} %"
    )


def heading(table: ResultTable, protocol: ScoringProtocol | None, material: str) -> tuple[str, str]:
    """What a group of rows was measured by, and what keeps it from comparison with another ('' where nothing
    does).
    """
    if protocol is None:
        return f"Not measured yet: {material}", ""
    name = f"Protocol {protocol.letter}" if len(table.protocols) > 1 else "Protocol"
    first = next(one.letter for one in table.protocols if one.material == protocol.material)
    apart = (
        f"Not to be compared with {first}: it differs in"
        f" {' and '.join(PARTS.get(part, part) for part in protocol.differs)}."
    )
    return f"{name} `{protocol.hash}`: {described(protocol)}", apart if protocol.differs else ""


def legend(table: ResultTable) -> list[str]:
    """How the numbers were made, the sources of the published ones, and what the letters mean."""
    said = [
        "Rates in %."
        + (" Scores may be compared under the same protocol alone." if len(table.protocols) > 1 else "")
    ]
    if any(entry.interval for entry in table.entries):
        said[0] += f" {INTERVALS}"
    if _tolerances(table):
        said.append(
            f"{VERDICTS} Tolerance: {' or '.join(f'{100 * t:g}' for t in _tolerances(table))} %, absolute."
        )
    if any(entry.judged[0] == APART for entry in table.entries):
        said.append(f"`{APART}`: the published score was measured by another protocol.")
    if table.column_keys and not any(entry.published.value for entry in table.entries):
        said.append("No published score belongs to these runs.")
    if table.elsewhere:
        said.append(
            f"Published for these models and datasets, by recipes of their own: {', '.join(table.elsewhere)}."
        )
    if sources := list(dict.fromkeys(e.published.source for e in table.entries if e.published.source)):
        said.append(f"Published: {', '.join(sources)}.")
    return said


def _tolerances(table: ResultTable) -> list[float]:
    return sorted(
        {entry.published.tolerance for entry in table.entries if entry.judged[0] not in ("", APART)}
    )


def commands(table: ResultTable) -> list[str]:
    """What makes the runs of the table: a line for each experiment, one for a grid without."""
    if any("experiment" in cell.keys for entry in table.entries for cell in entry.cells):
        return list(dict.fromkeys(entry.command for entry in table.entries))
    return [command(cell for entry in table.entries for cell in entry.cells)]


def grid(table: ResultTable) -> tuple[list[str], list[tuple[str, list[list[Entry]]]]]:
    """A grid's column names, and its rows: name, and at each column the entries there (one at most).

    A column (or a row, where the rows carry the protocol) whose runs were scored by several protocols is
    several columns.
    """
    on_rows = table.letters_on == "rows"
    places: dict[str, dict[str, list[str]]] = {"row": {}, "column": {}}
    for entry in table.entries:
        for axis, label, carries in (("row", entry.row, on_rows), ("column", entry.column, not on_rows)):
            letters = places[axis].setdefault(label, [])
            if carries and entry.letter and entry.letter not in letters:
                letters.append(entry.letter)
    rows = [(label, letter) for label, letters in places["row"].items() for letter in letters or [""]]
    columns = [(label, letter) for label, letters in places["column"].items() for letter in letters or [""]]

    def at(row: tuple[str, str], column: tuple[str, str]) -> list[Entry]:
        label, letter = row if on_rows else column
        letters = places["row" if on_rows else "column"][label]
        here = [entry for entry in table.entries if (entry.row, entry.column) == (row[0], column[0])]
        return [entry for entry in here if (entry.letter or (letters or [""])[0]) == letter]

    def named(place: tuple[str, str]) -> str:
        return f"{place[0]} ({place[1]})" if place[1] and len(table.protocols) > 1 else place[0]

    return [named(column) for column in columns], [
        (named(row), [at(row, column) for column in columns]) for row in rows
    ]


def in_cell(entry: Entry) -> str:
    """What a grid shows at a place."""
    return ours(entry) + (f", {runs(entry)}" if entry.scores and len(entry.scored) < len(entry.cells) else "")


def beside(entry: Entry) -> str:
    """The published score of a place in a grid, and what ours is beside it: '21.51: +0.49, as published'."""
    told = ", ".join(filter(None, (points(entry.difference, signed=True), entry.judged[0])))
    return ": ".join(filter(None, (points(entry.published.value) or "none", told)))


def remarks(entry: Entry) -> str:
    """The notes of a place, less what its cell says already."""
    return "; ".join(note for note in entry.notes if note != entry.status)


def place_of(entry: Entry) -> str:
    return " / ".join(filter(None, (entry.row, entry.column)))


# ------------------------------------------------------------------------------------------------------------
# Markdown


def markdown(table: ResultTable) -> str:
    """The table, its notes, the machines and the commands."""
    parts = _grid_parts(table) if table.column_keys else _list_parts(table)
    if machines := _machines(table):
        parts.append(machines)
    parts += [_wrapped(text) for text in legend(table)]
    parts.append("```bash\n" + "\n".join(map(_folded, commands(table))) + "\n```")
    return "\n\n".join(parts) + "\n"


def _list_parts(table: ResultTable) -> list[str]:
    parts = []
    with_published = any(entry.published.value is not None for entry in table.entries)
    for protocol, material, entries in table.sections():
        parts.append("\n".join(_wrapped(text) for text in heading(table, protocol, material) if text))
        header = [
            ", ".join(table.row_keys) or "run",
            "ours",
            "seeds" if table.mean_over == ("seed",) else "runs",
        ]
        rows = [[entry.row, ours(entry), runs(entry)] for entry in entries]
        if with_published:
            header[1:1] = ["published"]
            header += ["diff.", "verdict"]
            for row, entry in zip(rows, entries, strict=True):
                row[1:1] = [points(entry.published.value)]
                row += [points(entry.difference, signed=True), entry.judged[0]]
        parts.append(_aligned(header, rows, {"published", "diff."}))
        if notes := _notes(entries):
            parts.append(notes)
    return parts


def _grid_parts(table: ResultTable) -> list[str]:
    columns, rows = grid(table)
    body = [[name, *(" and ".join(map(in_cell, entries)) for entries in cells)] for name, cells in rows]
    header = [", ".join(table.row_keys) or "run", *columns]
    parts = [_aligned(header, body, set())]
    if any(entry.published.value for entry in table.entries):
        body = [[name, *(" and ".join(map(beside, entries)) for entries in cells)] for name, cells in rows]
        parts.append(f"Published, and ours beside it:\n\n{_aligned(header, body, set())}")
    if notes := _notes(table.entries):
        parts.append(notes)
    sections = [heading(table, protocol, material) for protocol, material, _ in table.sections()]
    return [*parts, "\n".join(_wrapped("- " + ". ".join(filter(None, texts)), "  ") for texts in sections)]


def _notes(entries: Iterable[Entry]) -> str:
    return "\n".join(
        _wrapped(_escaped(f"- {place_of(entry)}: {said}"), "  ")
        for entry in entries
        if (said := remarks(entry))
    )


def _machines(table: ResultTable) -> str:
    rows = [[place_of(e), e.published.hardware or "", e.published.time or "", e.hardware,
             "" if e.wall_seconds is None else duration(e.wall_seconds)] for e in table.entries]  # fmt: skip
    rows = list(map(list, dict.fromkeys(map(tuple, rows))))  # seeds under two protocols
    if not any(row[1] or row[2] for row in rows):
        rows = [row for row in rows if row[3] or row[4]]
        return (
            _aligned(["run", "hardware", "time"], [[row[0], *row[3:]] for row in rows], {"time"})
            if rows
            else ""
        )
    return _aligned(["run", "published on", "in", "ours on", "in"], rows, {"in"})


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]], right: set[str]) -> str:
    cells = [[_escaped(text) for text in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = (
            text.rjust(w) if name in right else text.ljust(w)
            for text, w, name in zip(row, widths, header, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = (
        "|"
        + "|".join(
            "-" * (w + 1) + (":" if name in right else "-") for w, name in zip(widths, header, strict=True)
        )
        + "|"
    )
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])


def _escaped(text: str) -> str:
    """Nothing that Markdown, or HTML within it, would take for its own."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _folded(command: str) -> str:
    """A command line over several lines, as a shell takes it; its words stay whole."""
    lines = [""]
    for word in map(shlex.quote, shlex.split(command)):
        if len(lines[-1]) + len(word) > WIDTH - 7:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return " \\\n    ".join(lines)


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


# ------------------------------------------------------------------------------------------------------------
# CSV


def table_csv(table: ResultTable) -> str:
    """A line for each entry, with everything the other pages show."""
    letters = {one.letter: one for one in table.protocols}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(FIELDS)
    for e in table.entries:
        low, high = e.interval or (None, None)
        protocol = letters.get(e.letter)
        writer.writerow(
            [
                e.row,
                e.column,
                e.status,
                e.scores[0].metric if e.scores else "",
                e.published.value,
                e.mean,
                low,
                high,
                len(e.scored),
                len(e.cells),
                e.difference,
                e.judged[0],
                e.published.tolerance,
                e.letter,
                protocol.hash if protocol else "",
                described(protocol) if protocol else e.material,
                min((s.coverage for s in e.scores), default=None),
                min((s.utterances for s in e.scores), default=None),
                e.published.split,
                e.published.hardware,
                e.published.time,
                e.published.source,
                e.hardware,
                e.wall_seconds,
                "; ".join(e.notes),
                e.command,
            ]
        )
    return out.getvalue()


# ------------------------------------------------------------------------------------------------------------
# the block of a page


def block_of(text: str, name: str, where: str) -> tuple[int, int]:
    """Where in a page the block of a table stands, between its markers.

    Raises UserError where the page has not exactly one.
    """
    found = list(
        re.finditer(rf"<!-- asr_exp table {re.escape(name)} -->\n(.*?)<!-- end -->", text, flags=re.DOTALL)
    )
    if len(found) != 1 or "<!-- asr_exp table" in found[0][1]:
        raise UserError(
            f"{where} has not one whole block for this table, as it must: a line <!-- asr_exp table {name}"
            " --> where the table is to stand, and a line <!-- end --> below it."
        )
    return found[0].span(1)
