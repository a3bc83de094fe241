"""Pictures for papers, PNG: curves, errors, groups; an utterance from near; what each layer makes of a
recording.

matplotlib is the extra `report`.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from asr_exp.commands.report.contents import UtteranceTable
from asr_exp.commands.report.detail import (
    RANGE,
    Aligned,
    UtteranceAnalysis,
    analyse,
    shown_labels,
    spectrogram,
)
from asr_exp.commands.report.record import Record
from asr_exp.core.errors import UserError
from asr_exp.data.prepare import Split
from asr_exp.data.recordings import read_recording
from asr_exp.inference.transcriber import Transcriber

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES = 8.0  # a picture's width; its pixels an inch follow from the width that is asked for
COLOURS = ("#1f5fbf", "#c2620f")
MOST_BARS = 12
FEWEST_BARS = 6
MOST_LAYERS = 6


def draw_run(
    records: Sequence[Record], utterances: UtteranceTable | None, folder: Path, width: int
) -> Iterator[Path]:
    """Write curves.png, errors.png and groups.png, as far as there is something to draw -> their paths.
    width: pixels.
    """
    if any(record.curves for record in records):
        yield save(draw_curves(records), folder / "curves.png", width)
    if utterances:
        yield save(draw_errors(utterances), folder / "errors.png", width)
        yield save(draw_groups(utterances), folder / "groups.png", width)


def draw_rows(
    utterances: UtteranceTable,
    rows: Sequence[int],
    split: Split,
    transcribers: Sequence[Transcriber],
    folder: Path,
    width: int,
) -> Iterator[Path]:
    """Write ID.png of each of these utterances (ID-a.png and ID-b.png of two runs) -> their paths."""
    index = {id: number for number, id in enumerate(split.utterances.ids())}
    for row, name in zip(rows, file_names([utterances.ids[row] for row in rows]), strict=True):
        id = utterances.ids[row]
        if id not in index:
            continue
        clip, text = split.samples(index[id]), split.utterances.text(index[id])
        for side, transcriber in enumerate(transcribers):
            heard = analyse(transcriber, clip, text, utterances.hypotheses[side][row])
            mark = f"-{'ab'[side]}" if len(transcribers) > 1 else ""
            yield save(draw_utterance(clip, transcriber.rate, heard), folder / f"{name}{mark}.png", width)


def draw_files(
    transcriber: Transcriber, files: Sequence[str], folder: Path, width: int
) -> Iterator[Path | UserError]:
    """Of each recording NAME.png (waveform, spectrogram, emissions, transcript) and NAME-layers.png -> their
    paths.

    In the place of one that cannot be used, or is longer than what goes through the network in one piece,
    comes why.
    """
    for file, name in zip(files, file_names([Path(file).stem for file in files]), strict=True):
        try:
            clip = np.array(read_recording(file, transcriber.rate, longest=transcriber.chunking.whole)[:])
        except UserError as why:
            yield why
            continue
        if not transcriber.model.frames(len(clip)):
            yield UserError(f"{file}: shorter than one frame, so there is nothing to draw.")
            continue
        heard, features = analyse(transcriber, clip, None, None), layer_features(transcriber, clip)
        yield save(draw_utterance(clip, transcriber.rate, heard), folder / f"{name}.png", width)
        yield save(draw_layers(features, heard.frame), folder / f"{name}-layers.png", width)


def file_names(ids: Sequence[str]) -> list[str]:
    """Ids of utterances as names of files, no two the same: those that would be are numbered."""
    names: list[str] = []
    for id in ids:
        name = first = re.sub(r"[^\w.-]+", "_", id).strip("._") or "utterance"
        number = 1
        while name in names:
            number += 1
            name = f"{first}-{number}"
        names.append(name)
    return names


def save(figure: "Figure", path: Path, width: int) -> Path:
    """Write a figure as a PNG so many pixels wide."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a character that the font lacks is drawn as a box
        figure.savefig(path, dpi=width / INCHES, format="png")
    return path


def _figure(height: float, rows: int = 1, columns: int = 1, **grid: Any) -> "tuple[Figure, np.ndarray]":
    """A figure INCHES wide and its axes, (rows, columns). Raises UserError without matplotlib."""
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


# ------------------------------------------------------------------------------------------------------------
# a run, or two


def draw_curves(records: Sequence[Record]) -> "Figure":
    """Losses, and error rates on dev, over the steps."""
    figure, ((left, right),) = _figure(3.2, 1, 2)
    styles = {"train/loss": ("train", 0.45, "-"), "dev/loss": ("dev", 1.0, "-")}
    rates = {"dev/wer": ("WER", 1.0, "-"), "dev/per": ("PER", 1.0, "-"), "dev/cer": ("CER", 1.0, ":")}
    for axes, wanted, factor in ((left, styles, 1), (right, rates, 100)):
        for side, record in enumerate(records):
            for name, (shown, alpha, style) in wanted.items():
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
    """The commonest substitutions, deletions and insertions."""
    figure, (axes,) = _figure(3.6, 1, 3)
    for one, (name, found) in zip(axes, utterances.confused().items(), strict=True):
        words, runs = (2 if name == "substitutions" else 1), len(utterances.errors)
        rows = found["rows"][:MOST_BARS]
        names = [" → ".join(row[:words]) for row in rows]
        counts = np.array([row[words : words + runs] for row in rows]).reshape(len(rows), runs)
        _bars(one, names, counts.T, None)
        one.set_title(f"{name} ({' · '.join(map(str, found['totals']))})", fontsize=9)
    return figure


def draw_groups(utterances: UtteranceTable) -> "Figure":
    """Rates by length, speaking rate and speaker, with 95 % intervals."""
    metric = {"phone": "PER", "character": "CER"}.get(utterances.unit, "WER")
    found = {name: rows for name, rows in utterances.groups().items() if rows}
    figure, (axes,) = _figure(3.2, 1, len(found))
    titles = {"length": f"{utterances.unit}s", "rate": f"{utterances.unit}s a second", "speaker": "speaker"}
    for one, (name, rows) in zip(axes, found.items(), strict=True):
        rows = rows[:MOST_BARS]
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
    """Bars from top to bottom; values: (runs, names); spreads: (runs, 2, names) below and above."""
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
    axes.set_ylim(max(len(names), FEWEST_BARS) - 0.5, -0.5)
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


# ------------------------------------------------------------------------------------------------------------
# an utterance


def draw_utterance(clip: np.ndarray, rate: int, heard: UtteranceAnalysis) -> "Figure":
    """Waveform, spectrogram, emissions and the alignment of reference and hypothesis over one time axis."""
    labels = shown_labels(heard)
    tall = max(1.6, 0.13 * len(labels))
    lanes = [*([("ref", heard.reference)] if heard.reference else []), ("hyp", heard.hypothesis)]
    ratios = [0.8, 1.5, tall, *([0.5] * len(lanes))]
    figure, axes = _figure(sum(ratios) + 0.6, 3 + len(lanes), 1, sharex=True, height_ratios=ratios)
    wave, mel, emissions, *texts = axes[:, 0]
    seconds = len(clip) / rate
    wave.plot(np.arange(len(clip)) / rate, clip / 32768.0, linewidth=0.4, color=COLOURS[0])
    wave.set_yticks([])
    picture, step = spectrogram(clip, rate)
    mel.imshow(
        picture,
        origin="lower",
        aspect="auto",
        cmap="Blues",
        vmin=-RANGE,
        vmax=0,
        extent=(-step / 2, picture.shape[1] * step, 0, len(picture)),
    )
    mel.set_ylabel("mel band", fontsize=8)
    shades = heard.posteriors[:, labels].T
    emissions.imshow(
        shades,
        aspect="auto",
        cmap="Blues",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(0, len(heard.posteriors) * heard.frame, len(labels) - 0.5, -0.5),
    )
    emissions.set_yticks(
        range(len(labels)), [heard.tokens[label] for label in labels], fontsize=6.5, parse_math=False
    )
    for one, (name, aligned) in zip(texts, lanes, strict=True):
        _lane(one, name, aligned)
    axes[-1, 0].set_xlabel("seconds", fontsize=9)
    axes[-1, 0].set_xlim(0, seconds)
    return figure


def _lane(axes: "Axes", name: str, aligned: Aligned) -> None:
    """Words above their labels, where they are said."""
    for word in aligned.words:
        axes.axvspan(word.start, word.end, 0.5, 1, facecolor="#e8edf5", edgecolor="#8aa4cc", linewidth=0.6)
        axes.text(
            (word.start + word.end) / 2,
            0.75,
            word.text,
            ha="center",
            va="center",
            fontsize=8,
            clip_on=True,
            parse_math=False,
        )
    for label in aligned.labels:
        axes.text(
            (label.start + label.end) / 2,
            0.25,
            label.text,
            ha="center",
            va="center",
            fontsize=6.5,
            clip_on=True,
            parse_math=False,
        )
    axes.set_ylim(0, 1)
    axes.set_yticks([0.5], [name], fontsize=8)
    axes.spines[["left", "bottom"]].set_visible(False)


# ------------------------------------------------------------------------------------------------------------
# layers


@torch.inference_mode()
def layer_features(transcriber: Transcriber, clip: np.ndarray) -> list[np.ndarray]:
    """What each layer of the encoder puts out for int16 audio, (frames, channels) each, from the first to the
    last.
    """
    found: list[np.ndarray] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        found.append(hidden.detach().float().cpu().reshape(-1, hidden.shape[-1]).numpy())

    hooks = [layer.register_forward_hook(keep) for layer in transcriber.model.blocks()]
    try:
        transcriber.emissions([clip])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def draw_layers(features: Sequence[np.ndarray], frame: float) -> "Figure":
    """The channels of some layers over time, each channel to zero mean and unit variance; those of the
    largest variance on top.
    """
    chosen = sorted({round(i) for i in np.linspace(0, len(features) - 1, min(MOST_LAYERS, len(features)))})
    figure, axes = _figure(1.35 * len(chosen) + 0.5, len(chosen), 1, sharex=True)
    for one, number in zip(axes[:, 0], chosen, strict=True):
        values = features[number]
        order = np.argsort(-values.var(axis=0), kind="stable")
        scaled = ((values - values.mean(axis=0)) / (values.std(axis=0) + 1e-6))[:, order].T
        one.imshow(
            scaled,
            aspect="auto",
            cmap="RdBu_r",
            vmin=-2.5,
            vmax=2.5,
            interpolation="nearest",
            extent=(0, len(values) * frame, len(scaled), 0),
        )
        one.set_ylabel(f"layer {number + 1}\nchannel", fontsize=8)
    axes[-1, 0].set_xlabel("seconds", fontsize=9)
    return figure
