"""One utterance in detail: its sound, waveform, spectrogram, frame-by-frame emissions, and the times of its
labels and words.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
import torch

from asr_exp.core.libraries import torchaudio
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.decoding.alignment import Span, Word, align_labels, best_path, words_of
from asr_exp.inference.transcriber import Transcriber

MEL_BANDS = 64
WINDOW_SECONDS = 0.025
HOP_SECONDS = 0.010
DECIBELS = 70.0  # below the loudest that are shown
MAX_FRAMES = 3000
MAX_LABELS = 48
MAX_PEAKS = 2000
LEAST_POSTERIOR = 0.05  # a label is shown where its posterior reaches this


@dataclass(frozen=True)
class Aligned:
    """A text along the time axis: its labels and its words, each with start and end in seconds and its
    posterior.
    """

    labels: list[Word]
    words: list[Word]


@dataclass(frozen=True)
class UtteranceAnalysis:
    """What a recogniser emits for an utterance, and how that aligns with the texts.

    posteriors: (frames, vocabulary); frame: seconds from one frame to the next; tokens: the vocabulary as it
    is shown; blank: the number of its blank; best: the likeliest label of each frame; reference: None where
    none is known.
    """

    posteriors: np.ndarray
    frame: float
    tokens: list[str]
    blank: int
    best: list[int]
    reference: Aligned | None
    hypothesis: Aligned


def analyse(
    transcriber: Transcriber, clip: np.ndarray, reference: str | None, hypothesis: str | None
) -> UtteranceAnalysis:
    """Run the recogniser on a clip, (samples,) int16 at the transcriber's rate, and align the texts with it.

    reference: after the text rules; hypothesis: a text, or None for that of the best path.
    """
    (log_probs,) = transcriber.emissions([clip])
    tokenizer = transcriber.tokenizer
    scores, best = log_probs.max(-1)
    # A hypothesis of phones may be folded into fewer of them, and is then not what was emitted.
    if hypothesis is None or tokenizer.unit == "phone":
        hypothesis_spans = best_path(best, scores.exp(), tokenizer.blank)
    else:
        hypothesis_spans = _spans(log_probs, tokenizer.encode(hypothesis), tokenizer)
    reference_spans = (
        None
        if reference is None
        else _spans(log_probs, tokenizer.encode(tokenizer.target(reference)), tokenizer)
    )
    tokens = [label_name(token, tokenizer) for token in tokenizer.tokens]
    return UtteranceAnalysis(
        posteriors=log_probs.exp().numpy(),
        frame=transcriber.frame,
        tokens=tokens,
        blank=tokenizer.blank,
        best=best.tolist(),
        reference=None if reference_spans is None else _aligned(reference_spans, transcriber),
        hypothesis=_aligned(hypothesis_spans, transcriber),
    )


def label_name(token: str, tokenizer: Tokenizer) -> str:
    """A label as it is shown; the blank and the space have a sign of their own."""
    return (
        "␣" if token == tokenizer.space else "∅" if token == tokenizer.blank_token else token.strip() or token
    )


def _spans(log_probs: torch.Tensor, labels: np.ndarray, tokenizer: Tokenizer) -> list[Span]:
    """The spans of labels over the frames; none where there are more labels than frames."""
    try:
        return align_labels(log_probs, labels.tolist(), tokenizer.blank)
    except ValueError:
        return []


def _aligned(spans: Sequence[Span], transcriber: Transcriber) -> Aligned:
    tokenizer, frame = transcriber.tokenizer, transcriber.frame
    labels = [
        Word(
            label_name(tokenizer.tokens[one.label], tokenizer), one.start * frame, one.end * frame, one.score
        )
        for one in spans
    ]
    return Aligned(labels, words_of(spans, tokenizer, frame))


def shown_labels(analysis: UtteranceAnalysis) -> list[int]:
    """The labels whose row of emissions is drawn: those whose posterior ever reaches LEAST_POSTERIOR (the
    likeliest of them, where there are many), and the blank last.
    """
    highest = analysis.posteriors.max(axis=0, initial=0.0)
    highest[analysis.blank] = 0.0
    likeliest = np.argsort(-highest, kind="stable")[: MAX_LABELS - 1]
    return [*sorted(int(i) for i in likeliest if highest[i] >= LEAST_POSTERIOR), analysis.blank]


def spectrogram(clip: np.ndarray, rate: int) -> tuple[np.ndarray, float]:
    """The log-mel spectrogram of (samples,) int16, (bands, frames) in decibels below the loudest, and the
    seconds between its frames.
    """
    functional = torchaudio("functional", "melscale_fbanks")
    hop = max(round(HOP_SECONDS * rate), len(clip) // MAX_FRAMES)
    window = round(WINDOW_SECONDS * rate)
    size = 1 << (window - 1).bit_length()
    audio = torch.from_numpy(clip.astype(np.float32) / 32768.0)
    audio = torch.nn.functional.pad(audio, (0, max(0, size - len(audio))))
    power = (
        torch.stft(
            audio, size, hop, window, torch.hann_window(window), pad_mode="constant", return_complex=True
        )
        .abs()
        .square()
    )
    bands = functional.melscale_fbanks(power.shape[0], 0.0, rate / 2, MEL_BANDS, rate).T @ power
    decibels = 10 * torch.log10(bands + 1e-10)
    return (decibels - decibels.max()).clamp(min=-DECIBELS).numpy(), hop / rate


def peaks(clip: np.ndarray) -> np.ndarray:
    """The waveform to be drawn: the lowest and the highest sample of each of at most MAX_PEAKS stretches,
    (2, stretches) int8 with full scale at 127.
    """
    parts = np.array_split(clip, min(MAX_PEAKS, max(1, len(clip))))
    ends = [[part.min(initial=0), part.max(initial=0)] for part in parts]
    return np.round(np.array(ends).T / 32768.0 * 127).astype(np.int8)


# ------------------------------------------------------------------------------------------------------------
# for the page


def pack_detail(clip: np.ndarray, rate: int, analyses: Sequence[UtteranceAnalysis]) -> dict[str, Any]:
    """An utterance as JSON for the page: arrays as base64 of their bytes, the sound as FLAC.

    clip: (samples,) int16; rate: its sampling rate in Hz; analyses: by each of the runs that are compared.
    """
    picture, step = spectrogram(clip, rate)
    shades = np.round((picture / DECIBELS + 1) * 255).astype(np.uint8)
    return {
        "seconds": len(clip) / rate,
        "rate": rate,
        "audio": _base64(flac(clip, rate)),
        "peaks": _base64(peaks(clip).tobytes()),
        "spectrogram": {
            "bands": shades.shape[0],
            "frames": shades.shape[1],
            "step": step,
            "shades": _base64(shades.tobytes()),
        },
        "analyses": [_emissions(one) for one in analyses],
    }


def flac(clip: np.ndarray, rate: int) -> bytes:
    """int16 samples as a FLAC file, which every browser plays."""
    file = io.BytesIO()
    soundfile.write(file, clip, rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def _emissions(analysis: UtteranceAnalysis) -> dict[str, Any]:
    labels = shown_labels(analysis)
    shades = np.round(analysis.posteriors[:, labels].T * 255).astype(np.uint8)
    rows = {label: row for row, label in enumerate(labels)}
    return {
        "labels": [analysis.tokens[label] for label in labels],
        "frames": len(analysis.posteriors),
        "frame": analysis.frame,
        "shades": _base64(shades.tobytes()),
        "best": [rows.get(label, -1) for label in analysis.best],
        "reference": _times(analysis.reference),
        "hypothesis": _times(analysis.hypothesis),
    }


def _times(aligned: Aligned | None) -> dict[str, Any] | None:
    if aligned is None:
        return None
    return {
        name: [[one.text, round(one.start, 3), round(one.end, 3), round(one.confidence, 3)] for one in spans]
        for name, spans in (("labels", aligned.labels), ("words", aligned.words))
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
