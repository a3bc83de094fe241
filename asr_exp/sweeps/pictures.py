"""A study as pictures: its history, the importance of its parameters, and parallel coordinates. Each is a
PNG, and all of them stand in one HTML page.

The page is whole by itself: the pictures are in it as SVG, and it loads nothing from elsewhere.
"""

import io
import itertools
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr_exp.core.files import write_text
from asr_exp.core.templates import render
from asr_exp.sweeps.ranges import Range

if TYPE_CHECKING:
    import optuna
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE = "#2b6cb0"
GREY = "#8a8f98"
RED = "#c0392b"
LEAST_TRIALS = 4  # finished trials that tell which parameter matters
STATUSES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}

Trials = Sequence["optuna.trial.FrozenTrial"]


@dataclass(frozen=True)
class Drawing:
    """A picture of the page."""

    title: str
    caption: str
    svg: str


def draw_study(study: "optuna.Study", folder: Path, ranges: Sequence[Range], measure: str) -> None:
    """Write history.png, importance.png, parallel.png and study.html; nothing before a trial has finished.

    measure: what the values of the study are, such as `dev WER`. They are rates, and are shown in per cent.
    """
    trials = study.get_trials(deepcopy=False)
    if not _finished(trials):
        return
    drawings = []
    with _drawing_to_files():
        for name, (draw, title, caption) in PICTURES.items():
            figure = draw(study, ranges, measure)
            beside = folder / f".{name}.new.png"
            figure.savefig(beside, dpi=144, bbox_inches="tight")
            beside.replace(folder / f"{name}.png")
            drawings.append(Drawing(title, caption, _svg(figure, name)))
    write_text(folder / "study.html", _page(folder.name, trials, ranges, measure, drawings))


@contextmanager
def _drawing_to_files() -> Iterator[None]:
    """Optuna draws with pyplot, in a style that it sets for the whole process: leave no figure and no style
    behind, and open no window where there is a display.
    """
    import matplotlib
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's plots are marked as experimental
        try:
            yield
        finally:
            pyplot.close("all")


# ------------------------------------------------------------------------------------------------------------
# the pictures


def draw_history(study: "optuna.Study", ranges: Sequence[Range], measure: str) -> "Figure":
    """The score of each trial in its turn, and the best score so far.

    Of our own, because plot_optimization_history leaves out the trials that were pruned or failed.
    """
    trials = study.get_trials(deepcopy=False)
    figure, axes = _figure(8, 3.8)
    numbers = [trial.number + 1 for trial in _finished(trials)]
    scores = [100 * trial.value for trial in _finished(trials)]
    best_so_far = list(itertools.accumulate(scores, min))
    steps = [*numbers, len(trials)]
    axes.step(
        steps, [*best_so_far, best_so_far[-1]], where="post", color=BLUE, linewidth=1.6, label="best so far"
    )
    axes.scatter(numbers, scores, s=26, color=BLUE, zorder=3, label="finished")
    pruned = [trial for trial in _in(trials, "PRUNED") if trial.intermediate_values]
    if pruned:
        numbers = [trial.number + 1 for trial in pruned]
        scores = [100 * min(trial.intermediate_values.values()) for trial in pruned]
        axes.scatter(numbers, scores, s=30, marker="x", color=GREY, label="pruned (best until then)")
    if failed := [trial.number + 1 for trial in _in(trials, "FAIL")]:
        bottom = axes.get_xaxis_transform()
        heights = [0.02] * len(failed)
        axes.plot(failed, heights, "v", color=RED, transform=bottom, label="failed", clip_on=False)
    axes.locator_params(axis="x", integer=True)
    axes.set(xlabel="trial", ylabel=f"{measure} (%)")
    axes.grid(axis="y", color="#e6e6e6")
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    axes.legend(frameon=False, ncols=4, fontsize=9, **place)
    return figure


def draw_importance(study: "optuna.Study", ranges: Sequence[Range], measure: str) -> "Figure":
    """How much of the difference between good and bad trials each parameter accounts for (PED-ANOVA, Watanabe
    et al. 2023).
    """
    import matplotlib
    from optuna.importance import PedAnovaImportanceEvaluator
    from optuna.visualization.matplotlib import plot_param_importances

    height = 1.0 + 0.42 * len(ranges)
    if not importances(study):
        figure, axes = _figure(8, height)
        axes.barh([one.name for one in ranges], [0.0] * len(ranges))
        reason = f"not known before {LEAST_TRIALS} finished trials whose scores differ"
        axes.text(0.5, (len(ranges) - 1) / 2, reason, ha="center", va="center", color=GREY)
        axes.set_xlim(0, 1)
    else:
        with matplotlib.rc_context():  # it sets a style for whatever is drawn after it
            axes = plot_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
        if legend := axes.get_legend():
            legend.remove()  # it names the objective, as the axis does
        figure = _restyled(axes, 8, height)
    axes.set(xlabel=f"share of the differences in {measure}", ylabel="")
    axes.tick_params(axis="y", length=0)
    return figure


def importances(study: "optuna.Study") -> dict[str, float]:
    """Shares that add up to 1; {} where the trials are too few, or do not differ."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    if len(_finished(study.get_trials(deepcopy=False))) < LEAST_TRIALS:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    except (RuntimeError, ValueError):
        return {}
    return dict(shares) if sum(shares.values()) > 0 and all(map(math.isfinite, shares.values())) else {}


def draw_parallel(study: "optuna.Study", ranges: Sequence[Range], measure: str) -> "Figure":
    """A line for each finished trial, from its score to its value of every parameter: the darker the better,
    the best in red, on top.
    """
    from matplotlib.ticker import MaxNLocator
    from optuna.visualization.matplotlib import plot_parallel_coordinate

    names = sorted(one.name for one in ranges)  # Optuna puts them in this order in any case
    axes = plot_parallel_coordinate(
        study, names, target=lambda trial: 100 * trial.values[0], target_name=f"{measure} (%)"
    )
    figure = _restyled(axes, max(8.0, 1.9 * (len(ranges) + 1)), 4.4)
    axes.tick_params(axis="x", labelrotation=0)
    lines: Any = axes.collections[0]
    lines.colorbar.remove()  # the score's axis says the same
    segments = sorted(lines.get_segments(), key=lambda points: points[0, 1])
    low, high = segments[0][0, 1], segments[-1][0, 1]
    if high > low:
        lines.set_clim(low, high + 0.3 * (high - low))  # else the worst is white
    axes.plot(*segments[0].T, color=RED, linewidth=2.4)
    kinds = {one.name: one.kind for one in ranges}
    for name, upright in zip(names, figure.axes[1:], strict=True):  # after the score's axis
        if kinds[name] == "int":
            upright.yaxis.set_major_locator(MaxNLocator(integer=True))
        for label in upright.get_yticklabels():
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8})
    return figure


PICTURES = {
    "history": (draw_history, "The way of the search", "Each trial in its turn."),
    "importance": (draw_importance, "What matters", "By the trials that finished (PED-ANOVA)."),
    "parallel": (
        draw_parallel,
        "Settings and scores",
        "A line for each finished trial: the darker the better, the best in red.",
    ),
}


def _figure(width: float, height: float) -> "tuple[Figure, Axes]":
    """A figure and its axes, in inches."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _restyled(axes: "Axes", width: float, height: float) -> "Figure":
    """The figure of a plot of Optuna's, like ours: so many inches, on white, without the title that the page
    repeats.
    """
    figure: Any = axes.figure
    figure.set_layout_engine("tight")
    figure.set_size_inches(width, height)
    axes.set_facecolor("white")
    axes.grid(False)
    axes.set_title("")
    axes.set_title("", loc="left")
    return figure


# ------------------------------------------------------------------------------------------------------------
# the page


@dataclass(frozen=True)
class TrialRow:
    """A trial in the page: its number from 1, its score in per cent (that of one without a score is the best
    while it ran), its value of each parameter, as in an override; no values where it has drawn none.
    """

    number: int
    score: str
    values: list[str]
    status: str


def _svg(figure: "Figure", name: str) -> str:
    """A figure as an <svg> for a page: its ids are its own, and it is without the addresses of its
    namespaces, which HTML knows.
    """
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", metadata={"Date": None}, bbox_inches="tight")
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\s(xmlns(:\w+)?)="[^"]*"', "", svg)
    return re.sub(r'(\sid="|"#|url\(#)', rf"\g<1>{name}-", svg)


def _page(
    name: str, trials: Trials, ranges: Sequence[Range], measure: str, drawings: Sequence[Drawing]
) -> str:
    """The HTML page.

    Args:
        name: the study's name.
        trials: all of its trials; at least one has finished.
        ranges: the parameters that are searched.
        measure: what the values of the study are, such as `dev WER`.
        drawings: the pictures.
    """
    finished = sorted(_finished(trials), key=lambda one: one.value)
    rows = [_row(one, ranges) for one in [*finished, *(one for one in trials if one not in finished)]]
    counts = Counter(STATUSES[one.state.name] for one in trials if one.state.name in STATUSES)
    return render(
        Path(__file__).with_name("study.html"),
        best=rows[0],
        best_overrides=" ".join(one.override(finished[0].params[one.name]) for one in ranges),
        counts=", ".join(f"{counts[status]} {status}" for status in STATUSES.values() if counts[status]),
        drawings=drawings,
        measure=measure,
        name=name,
        parameters=[one.name for one in ranges],
        rows=rows,
    )


def _row(trial: "optuna.trial.FrozenTrial", ranges: Sequence[Range]) -> TrialRow:
    value = trial.value if trial.value is not None else min(trial.intermediate_values.values(), default=None)
    values = [
        one.override(trial.params[one.name]).partition("=")[2] if one.name in trial.params else ""
        for one in ranges
    ]
    return TrialRow(
        number=trial.number + 1,
        score="" if value is None else f"{100 * value:.2f}",
        values=values if trial.params else [],
        status=STATUSES.get(trial.state.name, trial.state.name.lower()),
    )


def _finished(trials: Trials) -> list[Any]:
    return [one for one in _in(trials, "COMPLETE") if one.value is not None and math.isfinite(one.value)]


def _in(trials: Trials, state: str) -> list[Any]:
    return [one for one in trials if one.state.name == state]
