"""A table as Markdown that reads well in a terminal too, and the block of a page that holds such a table."""

import re
import shlex
import textwrap
from collections.abc import Iterable, Sequence

from asr_exp.commands.table.arrange import grid
from asr_exp.commands.table.rows import Entry, ResultTable
from asr_exp.commands.table.wording import (
    commands,
    comparison,
    heading,
    in_cell,
    legend,
    ours,
    place_of,
    points,
    remarks,
    runs,
)
from asr_exp.core.console import duration
from asr_exp.core.errors import UserError

WIDTH = 80  # of wrapped text, in characters


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
        counts = "seeds" if table.mean_over == ("seed",) else "runs"
        header = [", ".join(table.row_keys) or "run", "ours", counts]
        rows = [[entry.row, ours(entry), runs(entry)] for entry in entries]
        if with_published:
            header[1:1] = ["published"]
            header += ["diff.", "verdict"]
            for row, entry in zip(rows, entries, strict=True):
                row[1:1] = [points(entry.published.value)]
                row += [points(entry.difference, signed=True), entry.verdict]
        parts.append(_aligned(header, rows, {"published", "diff."}))
        if notes := _notes(entries):
            parts.append(notes)
    return parts


def _grid_parts(table: ResultTable) -> list[str]:
    layout = grid(table)
    header = [", ".join(table.row_keys) or "run", *layout.columns]
    body = [[name, *(" and ".join(map(in_cell, entries)) for entries in row)] for name, row in layout.rows]
    parts = [_aligned(header, body, set())]
    if any(entry.published.value for entry in table.entries):
        body = [
            [name, *(" and ".join(map(comparison, entries)) for entries in row)] for name, row in layout.rows
        ]
        parts.append(f"Published, and ours beside it:\n\n{_aligned(header, body, set())}")
    if notes := _notes(table.entries):
        parts.append(notes)
    headings = [heading(table, protocol, material) for protocol, material, _ in table.sections()]
    return [*parts, "\n".join(_wrapped("- " + ". ".join(filter(None, texts)), "  ") for texts in headings)]


def _notes(entries: Iterable[Entry]) -> str:
    return "\n".join(
        _wrapped(_escaped(f"- {place_of(entry)}: {text}"), "  ")
        for entry in entries
        if (text := remarks(entry))
    )


def _machines(table: ResultTable) -> str:
    """The hardware and the time of the published scores and of ours; '' where nothing is known."""
    rows = []
    for entry in table.entries:
        seconds = entry.wall_seconds
        time = "" if seconds is None else duration(seconds)
        theirs = entry.published
        rows.append([place_of(entry), theirs.hardware or "", theirs.time or "", entry.hardware, time])
    rows = list(map(list, dict.fromkeys(map(tuple, rows))))  # seeds scored by two protocols
    if any(row[1] or row[2] for row in rows):
        return _aligned(["run", "published on", "in", "ours on", "in"], rows, {"in"})
    rows = [[row[0], *row[3:]] for row in rows if row[3] or row[4]]
    return _aligned(["run", "hardware", "time"], rows, {"time"}) if rows else ""


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]], right: set[str]) -> str:
    """A Markdown table whose columns are aligned in a terminal too. right: the columns set to the right."""
    cells = [[_escaped(text) for text in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = (
            text.rjust(width) if name in right else text.ljust(width)
            for text, width, name in zip(row, widths, header, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rules = ("-" * (w + 1) + (":" if name in right else "-") for w, name in zip(widths, header, strict=True))
    return "\n".join([line(cells[0]), f"|{'|'.join(rules)}|", *map(line, cells[1:])])


def _escaped(text: str) -> str:
    """A text in which Markdown, and HTML within it, find nothing of their own."""
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
# the block of a page


def block_of(text: str, name: str, page: str) -> tuple[int, int]:
    """Where in the text of a page the block of a table begins and ends, between its markers.

    Raises UserError where the page has not exactly one.
    """
    blocks = list(
        re.finditer(rf"<!-- asr_exp table {re.escape(name)} -->\n(.*?)<!-- end -->", text, flags=re.DOTALL)
    )
    if len(blocks) != 1 or "<!-- asr_exp table" in blocks[0][1]:
        raise UserError(
            f"{page} has not one whole block for this table, as it must: a line <!-- asr_exp table {name} -->"
            " where the table is to stand, and a line <!-- end --> below it."
        )
    return blocks[0].span(1)
