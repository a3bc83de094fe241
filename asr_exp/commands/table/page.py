"""A table as one HTML page that needs nothing else: it has no script and no fonts of its own, and loads
nothing from elsewhere. It is laid out for wide and narrow screens, light and dark.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import asr_exp
from asr_exp.commands.table import wording
from asr_exp.commands.table.arrange import grid
from asr_exp.commands.table.rows import Entry, ResultTable
from asr_exp.core.console import duration
from asr_exp.core.templates import render

if TYPE_CHECKING:
    from markupsafe import Markup

WEB = Path(__file__).parent / "web"
DRAWING_WIDTH = 190  # of a row's drawing, in the units of its SVG
MARGIN = 0.06  # at both ends of a drawing, as a share of what it shows


def html(table: ResultTable) -> str:
    """The whole page."""
    published = any(entry.published.value is not None for entry in table.entries)
    finished = sum(len(entry.scored) for entry in table.entries)
    requested = len({id(cell) for entry in table.entries for cell in entry.cells})
    several = any(len(entry.scored) > 1 for entry in table.entries)
    mean = f", mean over {' and '.join(table.mean_over)}" if several else ""
    words = (wording.in_cell, wording.ours, wording.points, wording.remarks, wording.runs)
    return render(
        WEB / "page.html",
        **{function.__name__: function for function in (*words, duration, with_code)},
        commands=wording.commands(table),
        grid=grid(table) if table.column_keys else None,
        legend=wording.legend(table),
        published=published,
        row_title=", ".join(table.row_keys) or "run",
        sections=[
            Section(*wording.heading(table, protocol, material), entries, Scale.of(entries, published))
            for protocol, material, entries in table.sections()
        ],
        style=(WEB / "page.css").read_text(encoding="utf-8"),
        summary=f"{finished} of {requested} runs have a score{mean}.",
        table=table,
        version=asr_exp.__version__,
    )


def with_code(text: str) -> "Markup":
    """HTML of a text with its `code` as code, and without the schemes of addresses, so that the page links to
    nothing.
    """
    from markupsafe import Markup, escape

    parts = text.replace("https://", "").split("`")
    marked = (
        Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(parts)
    )
    return Markup("").join(marked)


@dataclass(frozen=True)
class Scale:
    """The rates at both ends of a section's drawings. Where the section has published scores, these are
    differences from them.

    The drawings are SVG of our own: a chart library would have to come with the page as a script, or draw
    every row as a picture without the page's colours.
    """

    low: float
    high: float
    published: bool
    width: int = DRAWING_WIDTH

    @classmethod
    def of(cls, entries: Sequence[Entry], published: bool) -> Self | None:
        """The scale that shows all of these entries, or None where there is nothing to draw."""
        empty = cls(0.0, 0.0, published)
        drawn = [entry for entry in entries if empty.shows(entry)]
        values = [
            rate - (entry.goal or 0.0)
            for entry in drawn
            for rate in (entry.mean, *(entry.interval or ()))
            if rate is not None
        ]
        if published:
            values += [sign * entry.published.tolerance for entry in drawn for sign in (-1, 1)]
        if not drawn or max(values) - min(values) < 1e-6:
            return None
        margin = MARGIN * (max(values) - min(values))
        return cls(min(values) - margin, max(values) + margin, published)

    def shows(self, entry: Entry) -> bool:
        """Whether an entry has a drawing."""
        return entry.mean is not None and (not self.published or entry.goal is not None)

    def x(self, entry: Entry, rate: float) -> float:
        """Where a rate stands in the drawing of an entry."""
        return round((rate - (entry.goal or 0.0) - self.low) / (self.high - self.low) * self.width, 1)


@dataclass(frozen=True)
class Section:
    """The entries of one protocol. heading: the protocol in words; apart: why its scores do not compare with
    those of another, or ''.
    """

    heading: str
    apart: str
    entries: Sequence[Entry]
    scale: Scale | None

    @property
    def title(self) -> str:
        return self.heading.partition(":")[0]

    @property
    def subtitle(self) -> str:
        return self.heading.partition(":")[2]
