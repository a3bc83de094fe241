"""A table as one HTML page that needs nothing else: no script, no address, no font of another's; for wide and
narrow, light and dark.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import asr_exp
from asr_exp.commands.table.markdown import (
    commands,
    grid,
    heading,
    in_cell,
    legend,
    ours,
    points,
    remarks,
    runs,
)
from asr_exp.commands.table.rows import Entry, ResultTable
from asr_exp.core.console import duration

PLOT = 190  # width of a row's picture, in its own units


def html(table: ResultTable) -> str:
    """The whole page."""
    style = (Path(__file__).with_suffix(".css")).read_text(encoding="utf-8")
    finished = sum(len(entry.scored) for entry in table.entries)
    asked = len({id(cell) for entry in table.entries for cell in entry.cells})
    over = (
        f", mean over {' and '.join(table.mean_over)}"
        if any(len(entry.scored) > 1 for entry in table.entries)
        else ""
    )
    body = _grid(table) if table.column_keys else _sections(table)
    shell = "\n".join(commands(table))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(table.name)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n<h1>{escape(table.name)}</h1>\n"
        f'<p class="soft">{finished} of {asked} runs have a score{over}.</p>\n{body}'
        "<h2>Run"
        f" it</h2>\n<pre>{escape(shell)}</pre>\n<footer>\n{''.join(f'<p>{_marked(text)}</p>' for text in legend(table))}\n"
        f"<p>asr_exp {asr_exp.__version__}</p>\n</footer>\n</main>\n</body>\n</html>\n"
    )


# ------------------------------------------------------------------------------------------------------------
# a list of rows


def _sections(table: ResultTable) -> str:
    parts = []
    published = any(entry.published.value is not None for entry in table.entries)
    for protocol, material, entries in table.sections():
        title, apart = heading(table, protocol, material)
        name, _, rest = title.partition(":")
        parts.append(f'<h2>{_marked(name)}</h2>\n<p class="soft">{escape(rest)}</p>\n')
        if apart:
            parts.append(f'<p class="apart">{escape(apart)}</p>\n')
        ends = _ends(entries, published)
        if ends:
            parts.append(_key(published))
        drawn = ["from published" if published else "rate"] if ends else []
        names = [", ".join(table.row_keys) or "run", *(["published"] if published else []), "ours", *drawn]
        names += [*(["difference", "verdict"] if published else []), "runs", "hardware, time"]
        head = "".join(
            f"<th{' class=n' if name in ('published', 'ours', 'difference') else ''}>{escape(name)}</th>"
            for name in names
        )
        rows = "".join(_row(entry, ends, published) for entry in entries)
        parts.append(
            "<table"
            f' class="list">\n<thead><tr>{head.replace("class=n", _N)}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n'
        )
    return "".join(parts)


_N = 'class="n"'


def _row(entry: Entry, ends: tuple[float, float] | None, published: bool) -> str:
    p, word = entry.published, entry.judged[0]
    said = remarks(entry)
    notes = f'<span class="sub">{_marked(said)}</span>' if said else ""
    more = f"<details><summary>command</summary><pre>{escape(entry.command)}</pre></details>"
    cells = [f"<th>{escape(entry.row)}{notes}{more}</th>"]
    if published:
        where = f'<span class="sub">{escape(p.split)}</span>' if p.split else ""
        cells.append(_cell("published", points(p.value) + (where if p.value is not None else ""), _N))
    cells.append(_cell("ours", _number(entry), _N))
    if ends:
        cells.append(_cell("from published" if published else "rate", _picture(entry, ends, published)))
    if published:
        cells.append(_cell("difference", points(entry.difference, signed=True), _N))
        cells.append(_cell("verdict", _tag(word) if word else ""))
    cells.append(_cell("runs", runs(entry), 'class="whole"'))
    machines = [_machine(entry.hardware, _time(entry), "")]
    machines.append(_machine(p.hardware or "", p.time or "", "published: "))
    cells.append(_cell("hardware, time", "".join(filter(None, machines))))
    return f"<tr>{''.join(cells)}</tr>\n"


def _number(entry: Entry) -> str:
    if entry.mean is None:
        return _tag(entry.status)
    within = (
        f'<span class="ci">{points(entry.interval[0])} to {points(entry.interval[1])}</span>'
        if entry.interval
        else ""
    )
    return points(entry.mean) + within


def _machine(hardware: str, time: str, whose: str) -> str:
    said = ", ".join(filter(None, (hardware, time)))
    return f'<span class="sub">{escape(whose + said)}</span>' if said else ""


def _cell(name: str, content: str, attributes: str = "") -> str:
    return f'<td data-name="{name}" {attributes}>{f"<span>{content}</span>" if content else ""}</td>'.replace(
        " >", ">"
    )


def _tag(word: str) -> str:
    return f'<span class="tag {word.replace(" ", "-")}">{word}</span>'


def _marked(text: str) -> str:
    """Text with its `code` as code, and without the schemes of addresses: the page reaches for nothing."""
    parts = escape(text.replace("https://", "")).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


# ------------------------------------------------------------------------------------------------------------
# pictures


def _from(entry: Entry) -> float:
    """What a row's picture is drawn from: the published score where there is one, so that it shows
    differences.
    """
    return entry.goal or 0.0


def _ends(entries: Sequence[Entry], published: bool) -> tuple[float, float] | None:
    """The rates (or differences) at both ends of a section's pictures, which share one scale; None where
    there is nothing to draw.
    """
    drawn = [entry for entry in entries if entry.mean is not None and not (published and entry.goal is None)]
    values = [
        x - _from(entry) for entry in drawn for x in (entry.mean, *(entry.interval or ())) if x is not None
    ]
    if published:
        values += [side * entry.published.tolerance for entry in drawn for side in (-1, 1)]
    if not drawn or max(values) - min(values) < 1e-6:
        return None
    room = 0.06 * (max(values) - min(values))
    return min(values) - room, max(values) + room


def _picture(entry: Entry, ends: tuple[float, float], published: bool) -> str:
    """Our interval and mean along a line; beside the published score with its tolerance, where a table has
    those.
    """
    if entry.mean is None or published and entry.goal is None:
        return ""

    def x(rate: float) -> float:
        return round((rate - _from(entry) - ends[0]) / (ends[1] - ends[0]) * PLOT, 1)

    parts = [f'<line class="axis" x1="0" x2="{PLOT}" y1="13" y2="13"/>']
    if (goal := entry.goal) is not None:
        low, high = x(goal - entry.published.tolerance), x(goal + entry.published.tolerance)
        parts.append(f'<rect class="band" x="{low}" y="3" width="{round(high - low, 1)}" height="20"/>')
        parts.append(f'<line class="goal" x1="{x(goal)}" x2="{x(goal)}" y1="3" y2="23"/>')
    if entry.interval:
        parts.append(
            f'<line class="span" x1="{x(entry.interval[0])}" x2="{x(entry.interval[1])}" y1="13" y2="13"/>'
        )
    parts.append(f'<circle class="dot" cx="{x(entry.mean)}" cy="13" r="5"/>')
    box = f'viewBox="0 0 {PLOT} 26" preserveAspectRatio="xMinYMid"'
    return f'<svg {box} role="img" aria-label="{escape(ours(entry))}">{"".join(parts)}</svg>'


def _key(published: bool) -> str:
    line = '<line class="span" x1="2" x2="38" y1="8" y2="8"/><circle class="dot" cx="20" cy="8" r="5"/>'
    goal = (
        '<rect class="band" x="6" y="0" width="28" height="16"/><line class="goal" x1="20" x2="20" y1="0"'
        ' y2="16"/>'
    )
    shown = [(line, "ours, 95 % interval"), *([(goal, "published, within tolerance")] if published else [])]
    spans = (
        f'<span><svg viewBox="0 0 40 16" aria-hidden="true">{picture}</svg> {name}</span>'
        for picture, name in shown
    )
    return f'<p class="soft key">{"".join(spans)}</p>\n'


# ------------------------------------------------------------------------------------------------------------
# a grid


def _grid(table: ResultTable) -> str:
    columns, rows = grid(table)
    head = f"<th>{escape(', '.join(table.row_keys) or 'run')}</th>" + "".join(
        f"<th {_N}>{escape(name)}</th>" for name in columns
    )
    body = ""
    for name, places in rows:
        cells = "".join(f"<td {_N}>{''.join(map(_in_grid, here))}</td>" for here in places)
        body += f"<tr><th>{escape(name)}</th>{cells}</tr>\n"
    parts = [
        "<div"
        f' class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n'
    ]
    notes = [(entry, said) for entry in table.entries if (said := remarks(entry))]
    if notes:
        items = "".join(
            f"<li><b>{escape(entry.row)}, {escape(entry.column)}</b>: {_marked(text)}</li>"
            for entry, text in notes
        )
        parts.append(f'<ul class="soft">{items}</ul>\n')
    for protocol, material, _ in table.sections():
        title, apart = heading(table, protocol, material)
        parts.append(
            f'<p class="soft">{_marked(title)}</p>\n'
            + (f'<p class="apart">{escape(apart)}</p>\n' if apart else "")
        )
    machines = [
        _machine(entry.hardware, _time(entry), f"{entry.row}, {entry.column}: ") for entry in table.entries
    ]
    if any(machines):
        parts.append(f"<details><summary>hardware, time</summary>{''.join(machines)}</details>\n")
    return "".join(parts)


def _time(entry: Entry) -> str:
    return "" if entry.wall_seconds is None else duration(entry.wall_seconds)


def _in_grid(entry: Entry) -> str:
    partial = (
        f'<span class="sub">{runs(entry)} runs</span>'
        if entry.scores and len(entry.scored) < len(entry.cells)
        else ""
    )
    goal = (
        f'<span class="sub">published {points(entry.published.value)}</span>'
        if entry.published.value is not None
        else ""
    )
    verdict = _tag(entry.judged[0]) if entry.judged[0] else ""
    return f'<span title="{escape(in_cell(entry))}">{_number(entry)}</span>{partial}{goal}{verdict}'
