"""A study as pictures: history, importance of the parameters, parallel coordinates; each a PNG, all of them
in one HTML page.

The page is whole by itself: the drawings are in it as SVG, and it asks for nothing from anywhere.
"""

import html
import io
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr_exp.core.files import write_text
from asr_exp.sweeps.ranges import Range

if TYPE_CHECKING:
    import optuna
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE = "#2b6cb0"
GREY = "#8a8f98"
RED = "#c0392b"
ENOUGH = 4  # finished trials, before it is said which parameter matters
STYLE = """:root { color-scheme: light dark; --paper: #fff; --ink: #222; --dim: #6b6b6b; --line: #ddd; --best: #e8f1fb }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
body { background: var(--paper); color: var(--ink) }
h1 { font-size: 1.5rem; overflow-wrap: anywhere } h2 { font-size: 1.1rem; margin-top: 2rem }
.wide { overflow-x: auto } svg { width: 100%; min-width: 36rem; height: auto }
table { border-collapse: collapse; font-size: 13px } code { overflow-wrap: anywhere }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
tr.best { background: var(--best); font-weight: 600 } .dim { color: var(--dim) } p.dim { margin: 0; font-size: 13px }
@media (prefers-color-scheme: dark) { :root { --paper: #141414; --ink: #ddd; --dim: #999; --line: #333; --best: #1b2c40 }
svg { filter: invert(.92) hue-rotate(180deg) } }"""

Trials = Sequence["optuna.trial.FrozenTrial"]


def draw_study(study: "optuna.Study", folder: Path, ranges: Sequence[Range], measure: str) -> None:
    """Write history.png, importance.png, parallel.png and study.html; nothing before a trial has finished.

    measure: what the values of the study are, such as `dev WER`; they are rates, shown in per cent.
    """
    trials = study.get_trials(deepcopy=False)
    if not _finished(trials):
        return
    drawings = {
        "history": ("The way of the search", "Each trial in its turn.", draw_history(trials, measure)),
        "importance": (
            "What matters",
            "By the trials that finished (PED-ANOVA).",
            draw_importance(study, ranges, measure),
        ),
        "parallel": (
            "Settings and scores",
            "A line a finished trial: the stronger the better, the best in red.",
            draw_parallel(trials, ranges, measure),
        ),
    }
    parts = []
    for name, (title, caption, figure) in drawings.items():
        beside = folder / f".{name}.new.png"
        figure.savefig(beside, dpi=144)
        beside.replace(folder / f"{name}.png")
        parts.append(
            f"<h2>{title}</h2>\n<p class=dim>{caption}</p>\n<div class=wide>{_svg(figure, name)}</div>"
        )
    write_text(folder / "study.html", _page(folder.name, trials, ranges, measure, parts))


# ------------------------------------------------------------------------------------------------------------
# the drawings


def draw_history(trials: Trials, measure: str) -> "Figure":
    """Each trial's score in its turn, and the best so far."""
    figure, axes = _figure(8, 3.8)
    finished = _finished(trials)
    best = math.inf
    path = []
    for one in finished:
        best = min(best, one.value)
        path.append(100 * best)
    numbers = [one.number + 1 for one in finished]
    axes.step(
        [*numbers, len(trials)],
        [*path, path[-1]],
        where="post",
        color=BLUE,
        linewidth=1.6,
        label="best so far",
    )
    axes.scatter(numbers, [100 * one.value for one in finished], s=26, color=BLUE, zorder=3, label="finished")
    pruned = [
        (one.number + 1, 100 * min(one.intermediate_values.values()))
        for one in _in(trials, "PRUNED")
        if one.intermediate_values
    ]
    if pruned:
        places, scores = zip(*pruned, strict=True)
        axes.scatter(places, scores, s=30, marker="x", color=GREY, zorder=2, label="pruned (best until then)")
    if failed := [one.number + 1 for one in _in(trials, "FAIL")]:
        axes.plot(
            failed,
            [0.02] * len(failed),
            "v",
            color=RED,
            transform=axes.get_xaxis_transform(),
            label="failed",
            clip_on=False,
        )
    axes.locator_params(axis="x", integer=True)
    axes.set(xlabel="trial", ylabel=f"{measure} (%)")
    axes.grid(axis="y", color="#e6e6e6")
    axes.legend(
        frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, fontsize=9
    )
    return figure


def draw_importance(study: "optuna.Study", ranges: Sequence[Range], measure: str) -> "Figure":
    """How much of the difference between good and bad trials each parameter accounts for (PED-ANOVA, Watanabe
    et al. 2023).
    """
    shares = importances(study) if len(_finished(study.get_trials(deepcopy=False))) >= ENOUGH else {}
    names = sorted((one.name for one in ranges), key=lambda name: shares.get(name, 0.0))
    figure, axes = _figure(8, 1.0 + 0.42 * len(names))
    values = [100 * shares.get(name, 0.0) for name in names]
    axes.barh(names, values, color=BLUE, height=0.6)
    for place, value in enumerate(values if shares else ()):
        axes.text(value + 1, place, f"{value:.0f} %", va="center", fontsize=9)
    if not shares:
        told = f"not known before {ENOUGH} finished trials whose scores differ"
        axes.text(50, (len(names) - 1) / 2, told, ha="center", va="center", color=GREY)
    axes.set(xlim=(0, 108), xlabel=f"share of the differences in {measure} (%)")
    axes.tick_params(axis="y", length=0)
    return figure


def importances(study: "optuna.Study") -> dict[str, float]:
    """Shares that add up to 1; {} where the trials do not tell."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    except (RuntimeError, ValueError):
        return {}
    return dict(found) if sum(found.values()) > 0 and all(map(math.isfinite, found.values())) else {}


def draw_parallel(trials: Trials, ranges: Sequence[Range], measure: str) -> "Figure":
    """A line a finished trial, from setting to setting to its score: the stronger the better, the best in
    red, on top.
    """
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    finished = sorted(_finished(trials), key=lambda one: -one.value)
    scores = [100 * one.value for one in finished]
    low, high = min(scores), max(scores)
    figure, axes = _figure(max(8.0, 1.9 * (len(ranges) + 1)), 4.4)
    # the worst still to be seen
    colour, shade = colormaps["Blues_r"], Normalize(low, high + 0.3 * (high - low) + 1e-9)
    for one, score in zip(finished, scores, strict=True):
        heights = [
            *(_height(range_, one.params[range_.name]) for range_ in ranges),
            (score - low) / (high - low) if high > low else 0.5,
        ]
        best = one is finished[-1]
        axes.plot(
            heights,
            color=RED if best else colour(shade(score)),
            linewidth=2.4 if best else 1.3,
            zorder=2 + best,
        )
    for place, one in enumerate(ranges):
        _axis(axes, place, one.name.replace(".", ".\n"), _ticks(one))
    ends = [(0.0, f"{low:.2f}"), (1.0, f"{high:.2f}")] if high > low else [(0.5, f"{low:.2f}")]
    _axis(axes, len(ranges), f"{measure}\n(%)", ends)
    axes.set(xlim=(-0.25, len(ranges) + 0.45), ylim=(-0.08, 1.22))
    axes.axis("off")
    return figure


def _axis(axes: "Axes", place: int, title: str, ticks: Sequence[tuple[float, str]]) -> None:
    """An upright axis of the parallel coordinates with its title above it."""
    axes.plot([place, place], [0, 1], color="#444", linewidth=1, zorder=4)
    axes.text(place, 1.05, title, ha="center", va="bottom", fontsize=9, fontweight="bold")
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}
    for height, text in ticks:
        axes.plot([place, place + 0.03], [height, height], color="#444", linewidth=1, zorder=4)
        axes.text(place + 0.05, height, text, va="center", fontsize=8, zorder=5, bbox=box)


def _height(one: Range, value: Any) -> float:
    """Where a value stands on its axis, from 0 to 1."""
    if one.kind == "choice":
        return one.choices.index(value) / max(1, len(one.choices) - 1) if len(one.choices) > 1 else 0.5
    if one.high == one.low:
        return 0.5
    if one.log:
        return math.log(value / one.low) / math.log(one.high / one.low)
    return (value - one.low) / (one.high - one.low)


def _ticks(one: Range) -> list[tuple[float, str]]:
    """Heights on the axis of a range, and what stands there: every value of a few, else both ends and round
    numbers between them.
    """
    if one.kind == "choice":
        return [
            (_height(one, value), value if len(value) <= 18 else value[:17] + "…") for value in one.choices
        ]
    from matplotlib.ticker import LogLocator, MaxNLocator

    locator = LogLocator() if one.log else MaxNLocator(5, integer=one.kind == "int")
    between = [value for value in locator.tick_values(one.low, one.high) if one.low < value < one.high]
    values = [one.low, *(value for value in between if 0.06 < _height(one, value) < 0.94), one.high]
    values = one.values if one.values and len(one.values) <= 6 else values
    return [
        (_height(one, value), f"{value:.3g}" if one.kind == "float" else f"{value:g}")
        for value in dict.fromkeys(values)
    ]


def _figure(width: float, height: float) -> "tuple[Figure, Axes]":
    """A figure and its axes, in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


# ------------------------------------------------------------------------------------------------------------
# the page


def _svg(figure: "Figure", name: str) -> str:
    """A figure as an <svg> to stand in a page: without the addresses of its namespaces, which HTML knows, its
    ids its own.
    """
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\s(xmlns(:\w+)?)="[^"]*"', "", svg)
    return re.sub(r'(\sid="|"#|url\(#)', rf"\g<1>{name}-", svg)


def _page(name: str, trials: Trials, ranges: Sequence[Range], measure: str, drawings: Sequence[str]) -> str:
    finished = sorted(_finished(trials), key=lambda one: one.value)
    counts = {label: len(_in(trials, state)) for label, state in
              (("finished", "COMPLETE"), ("pruned", "PRUNED"), ("failed", "FAIL"), ("running", "RUNNING"))}  # fmt: skip
    others = [one for one in trials if one not in finished and one.params]
    heads = "".join(f"<th>{html.escape(one.name)}</th>" for one in ranges)
    rows = "\n".join(_row(one, ranges, one is finished[0]) for one in [*finished, *others])
    said = ", ".join(f"{count} {label}" for label, count in counts.items() if count)
    best = " ".join(one.override(finished[0].params[one.name]) for one in ranges)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(name)}</title>
<style>{STYLE}</style></head><body>
<h1>{html.escape(name)}</h1>
<p>{len(trials)} trials: {said}. The best, trial {finished[0].number + 1}, has a {html.escape(measure)} of
<b>{100 * finished[0].value:.2f} %</b>:<br><code>{html.escape(best)}</code></p>
{chr(10).join(drawings)}
<h2>Trials, the best first</h2>
<div class=wide><table><tr><th class=n>trial</th><th class=n>{html.escape(measure)} (%)</th>{heads}<th>status</th></tr>
{rows}
</table></div></body></html>
"""


def _row(one: "optuna.trial.FrozenTrial", ranges: Sequence[Range], best: bool) -> str:
    value = one.value if one.value is not None else min(one.intermediate_values.values(), default=None)
    score = "" if value is None else f"{100 * value:.2f}"
    kind = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}.get(
        one.state.name, one.state.name.lower()
    )
    cells = "".join(
        (
            f"<td>{html.escape(range_.override(one.params[range_.name]).partition('=')[2])}</td>"
            if range_.name in one.params
            else "<td></td>"
        )
        for range_ in ranges
    )
    class_ = ' class="best"' if best else "" if kind == "finished" else ' class="dim"'
    return f"<tr{class_}><td class=n>{one.number + 1}</td><td class=n>{score}</td>{cells}<td>{kind}</td></tr>"


def _finished(trials: Trials) -> list[Any]:
    return [one for one in _in(trials, "COMPLETE") if one.value is not None and math.isfinite(one.value)]


def _in(trials: Trials, state: str) -> list[Any]:
    return [one for one in trials if one.state.name == state]
