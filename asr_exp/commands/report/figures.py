"""Figures of one run or two for papers, as PNG: curves, errors, groups. matplotlib is the extra `report`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from asr_exp.commands.report.canvas import COLOURS, make_figure, save
from asr_exp.commands.report.contents import UtteranceTable
from asr_exp.commands.report.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_BARS = 12
LEAST_BARS = 6  # room is left for so many


def draw_run(
    records: Sequence[Record], utterances: UtteranceTable | None, folder: Path, width: int
) -> Iterator[Path]:
    """Write curves.png, errors.png and groups.png, those of them that have something to show, and give their
    paths. width: in pixels.
    """
    if any(record.curves for record in records):
        yield save(draw_curves(records), folder / "curves.png", width)
    if utterances:
        yield save(draw_errors(utterances), folder / "errors.png", width)
        yield save(draw_groups(utterances), folder / "groups.png", width)


def draw_curves(records: Sequence[Record]) -> "Figure":
    """The losses, and the error rates on dev, by step."""
    figure, ((left, right),) = make_figure(3.2, 1, 2)
    styles = {"train/loss": ("train", 0.45, "-"), "dev/loss": ("dev", 1.0, "-")}
    rates = {"dev/wer": ("WER", 1.0, "-"), "dev/per": ("PER", 1.0, "-"), "dev/cer": ("CER", 1.0, ":")}
    for axes, curves, factor in ((left, styles, 1), (right, rates, 100)):
        for side, record in enumerate(records):
            for name, (shown, alpha, style) in curves.items():
                if curve := record.curves.get(name):
                    steps, values = np.array(curve).T
                    label = f"{'AB'[side]} {shown}" if len(records) > 1 else shown
                    mark = "." if len(curve) < 30 else None
                    axes.plot(
                        steps,
                        factor * values,
                        style,
                        color=COLOURS[side],
                        alpha=alpha,
                        label=label,
                        marker=mark,
                    )
        axes.set_xlabel("step", fontsize=9)
        if axes.lines:
            axes.legend(frameon=False, fontsize=8)
    left.set(yscale="log")
    left.set_ylabel("loss", fontsize=9)
    right.set_ylabel("error rate on dev (%)", fontsize=9)
    right.set_ylim(bottom=0)
    return figure


def draw_errors(utterances: UtteranceTable) -> "Figure":
    """The most frequent substitutions, deletions and insertions."""
    figure, (axes,) = make_figure(3.6, 1, 3)
    for one, (name, errors) in zip(axes, utterances.confused().items(), strict=True):
        words, runs = (2 if name == "substitutions" else 1), len(utterances.errors)
        rows = errors["rows"][:MAX_BARS]
        names = [" → ".join(row[:words]) for row in rows]
        counts = np.array([row[words : words + runs] for row in rows]).reshape(len(rows), runs)
        _bars(one, names, counts.T, None)
        one.set_title(f"{name} ({' · '.join(map(str, errors['totals']))})", fontsize=9)
    return figure


def draw_groups(utterances: UtteranceTable) -> "Figure":
    """The error rate by length, speaking rate and speaker, with 95 % intervals."""
    metric = {"phone": "PER", "character": "CER"}.get(utterances.unit, "WER")
    groups = {name: rows for name, rows in utterances.groups().items() if rows}
    figure, (axes,) = make_figure(3.2, 1, len(groups))
    titles = {"length": f"{utterances.unit}s", "rate": f"{utterances.unit}s a second", "speaker": "speaker"}
    for one, (name, rows) in zip(axes, groups.items(), strict=True):
        rows = rows[:MAX_BARS]
        rates = 100 * np.array([[rate or 0.0 for rate in row["rates"]] for row in rows]).T
        ends = [
            [
                np.nan if interval is None else 100 * interval[end]
                for row in rows
                for interval in [row["intervals"][side]]
            ]
            for side in range(len(rates))
            for end in (0, 1)
        ]
        spreads = np.abs(np.array(ends).reshape(len(rates), 2, len(rows)) - rates[:, None, :])
        _bars(one, [row["name"] for row in rows], rates, spreads)
        one.set_title(f"{metric} (%) by {titles[name]}", fontsize=9)
    return figure


def _bars(axes: "Axes", names: Sequence[str], values: np.ndarray, spreads: np.ndarray | None) -> None:
    """Bars from top to bottom. values: (runs, names); spreads: (runs, 2, names), how far the intervals reach
    below and above the values.
    """
    thick = 0.8 / len(values)
    for side, one in enumerate(values):
        places = np.arange(len(names)) + (side - (len(values) - 1) / 2) * thick
        axes.barh(
            places,
            one,
            thick * 0.9,
            color=COLOURS[side],
            label="AB"[side],
            xerr=None if spreads is None else spreads[side],
            error_kw={"elinewidth": 0.8, "ecolor": "#333"},
        )
    axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)  # a dollar in a word is one
    axes.set_ylim(max(len(names), LEAST_BARS) - 0.5, -0.5)
    axes.set_xlim(left=0, right=None if len(names) else 1)
    if spreads is None:
        axes.locator_params(axis="x", integer=True)  # these are counts
    if not len(names):
        axes.set_xticks([])
        axes.text(
            0.5, 0.5, "none", transform=axes.transAxes, ha="center", va="center", fontsize=9, color="#555"
        )
    if len(values) > 1 and len(names):
        axes.legend(frameon=False, fontsize=8, loc="lower right")
