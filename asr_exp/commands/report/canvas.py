"""What every figure for a paper shares: its width, its axes, its file."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from asr_exp.core.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INCHES = 8.0  # the width of a figure; its pixels an inch follow from report.width
COLOURS = ("#1f5fbf", "#c2620f")  # of run A and of run B


def make_figure(height: float, rows: int = 1, columns: int = 1, **grid: Any) -> "tuple[Figure, np.ndarray]":
    """A figure INCHES wide and its axes, (rows, columns). height: in inches; grid: as for `subplots`.

    Raises UserError where matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("format=png needs matplotlib: pip install 'asr_exp[report]'.") from None
    figure = Figure(figsize=(INCHES, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **grid)
    for one in axes.flat:
        one.tick_params(labelsize=8)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure: "Figure", path: Path, width: int) -> Path:
    """Write a figure as a PNG. width: in pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a character that the font lacks is drawn as a box
        figure.savefig(path, dpi=width / INCHES, format="png")
    return path


def file_names(ids: Sequence[str]) -> list[str]:
    """A file name for each utterance's id. Names that would be the same are numbered."""
    names: list[str] = []
    for id in ids:
        name = first = re.sub(r"[^\w.-]+", "_", id).strip("._") or "utterance"
        number = 1
        while name in names:
            number += 1
            name = f"{first}-{number}"
        names.append(name)
    return names
