"""Figures of single utterances and recordings for papers, as PNG: waveform, spectrogram, emissions,
alignment; and the outputs of the encoder's layers. matplotlib is the extra `report`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from asr_exp.commands.report.canvas import COLOURS, file_names, make_figure, save
from asr_exp.commands.report.contents import UtteranceTable
from asr_exp.commands.report.detail import (
    DECIBELS,
    Aligned,
    UtteranceAnalysis,
    analyse,
    shown_labels,
    spectrogram,
)
from asr_exp.core.errors import UserError
from asr_exp.data.prepare import Split
from asr_exp.data.recordings import read_recording
from asr_exp.inference.transcriber import Transcriber

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN = 12  # layers under each other


def draw_rows(
    utterances: UtteranceTable,
    rows: Sequence[int],
    split: Split,
    transcribers: Sequence[Transcriber],
    folder: Path,
    width: int,
) -> Iterator[Path]:
    """Write ID.png for each of these utterances (ID-a.png and ID-b.png for two runs) and give their paths.

    Args:
        utterances: what the runs made of the split.
        rows: the utterances' rows in it.
        split: the split with its audio; utterances that it lacks are left out.
        transcribers: the recogniser of each run.
        folder: where the files go.
        width: of a figure, in pixels.
    """
    index = {id: number for number, id in enumerate(split.utterances.ids())}
    for row, name in zip(rows, file_names([utterances.ids[row] for row in rows]), strict=True):
        id = utterances.ids[row]
        if id not in index:
            continue
        clip, text = split.samples(index[id]), split.utterances.text(index[id])
        for side, transcriber in enumerate(transcribers):
            analysis = analyse(transcriber, clip, text, utterances.hypotheses[side][row])
            mark = f"-{'ab'[side]}" if len(transcribers) > 1 else ""
            yield save(draw_utterance(clip, transcriber.rate, analysis), folder / f"{name}{mark}.png", width)


def draw_files(
    transcriber: Transcriber, files: Sequence[str], folder: Path, width: int
) -> Iterator[Path | UserError]:
    """Write NAME.png (waveform, spectrogram, emissions, transcript) and NAME-layers.png for each recording
    and give their paths.

    For a recording that cannot be used, or is too long to go through the network in one piece, the error is
    given instead. width: in pixels.
    """
    for file, name in zip(files, file_names([Path(file).stem for file in files]), strict=True):
        try:
            clip = np.array(read_recording(file, transcriber.rate, longest=transcriber.chunking.whole)[:])
        except UserError as error:
            yield error
            continue
        if not transcriber.model.frames(len(clip)):
            yield UserError(f"{file}: shorter than one frame, so there is nothing to draw.")
            continue
        analysis, features = analyse(transcriber, clip, None, None), layer_features(transcriber, clip)
        yield save(draw_utterance(clip, transcriber.rate, analysis), folder / f"{name}.png", width)
        step = analysis.frame * pooled_frames(transcriber)
        yield save(draw_layers(features, step), folder / f"{name}-layers.png", width)


def draw_utterance(clip: np.ndarray, rate: int, analysis: UtteranceAnalysis) -> "Figure":
    """Waveform, spectrogram, emissions, and reference and hypothesis aligned with them, over one time axis.

    clip: (samples,) int16; rate: its sampling rate in Hz.
    """
    labels = shown_labels(analysis)
    tall = max(1.6, 0.13 * len(labels))
    lanes = [*([("ref", analysis.reference)] if analysis.reference else []), ("hyp", analysis.hypothesis)]
    ratios = [0.8, 1.5, tall, *([0.5] * len(lanes))]
    figure, axes = make_figure(sum(ratios) + 0.6, 3 + len(lanes), 1, sharex=True, height_ratios=ratios)
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
        vmin=-DECIBELS,
        vmax=0,
        extent=(-step / 2, picture.shape[1] * step, 0, len(picture)),
    )
    mel.set_ylabel("mel band", fontsize=8)
    shades = analysis.posteriors[:, labels].T
    emissions.imshow(
        shades,
        aspect="auto",
        cmap="Blues",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(0, len(analysis.posteriors) * analysis.frame, len(labels) - 0.5, -0.5),
    )
    emissions.set_yticks(
        range(len(labels)), [analysis.tokens[label] for label in labels], fontsize=6.5, parse_math=False
    )
    for one, (name, aligned) in zip(texts, lanes, strict=True):
        _lane(one, name, aligned)
    axes[-1, 0].set_xlabel("seconds", fontsize=9)
    axes[-1, 0].set_xlim(0, seconds)
    return figure


def _lane(axes: "Axes", name: str, aligned: Aligned) -> None:
    """Words above their labels, along the time axis."""
    for word in aligned.words:
        axes.axvspan(word.start, word.end, 0.5, 1, facecolor="#e8edf5", edgecolor="#8aa4cc", linewidth=0.6)
    for spans, height, size in ((aligned.words, 0.75, 8), (aligned.labels, 0.25, 6.5)):
        for span in spans:
            middle = (span.start + span.end) / 2
            style: dict[str, Any] = {
                "ha": "center",
                "va": "center",
                "fontsize": size,
                "clip_on": True,
                "parse_math": False,
            }
            axes.text(middle, height, span.text, **style)
    axes.set_ylim(0, 1)
    axes.set_yticks([0.5], [name], fontsize=8)
    axes.spines[["left", "bottom"]].set_visible(False)


@torch.inference_mode()
def layer_features(transcriber: Transcriber, clip: np.ndarray) -> list[np.ndarray]:
    """The output of each layer of the encoder for a clip, (frames, channels) float32, from the first layer to
    the last. An encoder that pools frames (SEW) has as many fewer of them.

    clip: (samples,) int16.
    """
    frames = -(-transcriber.model.frames(len(clip)) // pooled_frames(transcriber))
    outputs: list[np.ndarray] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        hidden = hidden.reshape(-1, hidden.shape[-1])[:frames]  # what fills the pass up comes after the clip
        outputs.append(hidden.detach().float().cpu().numpy())

    hooks = [layer.register_forward_hook(keep) for layer in transcriber.model.blocks()]
    try:
        transcriber.emissions([clip])
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def pooled_frames(transcriber: Transcriber) -> int:
    """How many frames of emissions a frame of the encoder stands for."""
    return getattr(transcriber.model.network.config, "squeeze_factor", 1)


def draw_layers(features: Sequence[np.ndarray], frame: float) -> "Figure":
    """The channels of every layer over time, each scaled to zero mean and unit variance; those of the largest
    variance stand on top. The layers go down the columns. features: (frames, channels) of each layer; frame:
    seconds from one to the next.
    """
    columns = -(-len(features) // COLUMN)
    rows = -(-len(features) // columns)
    height = max(0.75, min(1.35, 6 / rows))
    figure, grid = make_figure(height * rows + 0.5, rows, columns, sharex=True)
    panels = grid.T.flatten()
    for number, (one, values) in enumerate(zip(panels, features, strict=False)):
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
        one.set_ylabel(f"layer {number + 1}", fontsize=8)
        one.set_yticks([0, len(scaled)])
        one.tick_params(axis="y", labelsize=6)
        if number % rows == rows - 1 or number == len(features) - 1:
            one.tick_params(labelbottom=True)
            one.set_xlabel("seconds", fontsize=9)
    for one in panels[len(features) :]:
        one.set_visible(False)
    return figure
