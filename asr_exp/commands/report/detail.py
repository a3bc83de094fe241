"""One utterance from near: its sound, waveform, spectrogram, frame-by-frame emissions, and when its labels
and words are said.
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

BANDS = 64  # mel bands; seconds
WINDOW = 0.025
HOP = 0.010
RANGE = 70.0  # decibels below the loudest that are shown
MOST_FRAMES = 3000
MOST_LABELS = 48
MOST_PEAKS = 2000
SEEN = 0.05  # a label is shown where its posterior comes so far


@dataclass(frozen=True)
class Aligned:
    """A text over time: its labels (text, start, end, posterior; seconds) and its words."""

    labels: list[Word]
    words: list[Word]


@dataclass(frozen=True)
class UtteranceAnalysis:
    """What a recogniser makes of an utterance. posteriors: (frames, vocabulary); frame: seconds from one to
    the next; best: the likeliest label of each frame."""

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
    """clip: int16, at the transcriber's rate; reference: after the text rules; hypothesis: a text, or None
    for the best path's.
    """
    (log_probs,) = transcriber.emissions([clip])
    tokenizer = transcriber.tokenizer
    scores, best = log_probs.max(-1)
    # phones may be folded: then they are not what was emitted
    if hypothesis is None or tokenizer.unit == "phone":
        said = best_path(best, scores.exp(), tokenizer.blank)
    else:
        said = _spans(log_probs, tokenizer.encode(hypothesis), tokenizer)
    spoken = (
        None
        if reference is None
        else _spans(log_probs, tokenizer.encode(tokenizer.target(reference)), tokenizer)
    )
    tokens = [label_name(token, tokenizer) for token in tokenizer.tokens]
    return UtteranceAnalysis(
        log_probs.exp().numpy(),
        transcriber.frame,
        tokens,
        tokenizer.blank,
        best.tolist(),
        None if spoken is None else _aligned(spoken, transcriber),
        _aligned(said, transcriber),
    )


def label_name(token: str, tokenizer: Tokenizer) -> str:
    """A label as it is shown: the blank and the space by a sign of their own."""
    return (
        "␣" if token == tokenizer.space else "∅" if token == tokenizer.blank_token else token.strip() or token
    )


def _spans(log_probs: torch.Tensor, labels: np.ndarray, tokenizer: Tokenizer) -> list[Span]:
    """Where labels stand; none where there are more of them than frames."""
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


def shown_labels(heard: UtteranceAnalysis) -> list[int]:
    """The labels whose row of emissions is worth drawing: those that come up at all, the likeliest where
    there are many, blank last.
    """
    highest = heard.posteriors.max(axis=0, initial=0.0)
    highest[heard.blank] = 0.0
    likeliest = np.argsort(-highest, kind="stable")[: MOST_LABELS - 1]
    return [*sorted(int(i) for i in likeliest if highest[i] >= SEEN), heard.blank]


def spectrogram(clip: np.ndarray, rate: int) -> tuple[np.ndarray, float]:
    """Log-mel spectrogram of int16 audio, (bands, frames) in decibels under the loudest, and the seconds
    between frames.
    """
    functional = torchaudio("functional", "melscale_fbanks")
    hop = max(round(HOP * rate), len(clip) // MOST_FRAMES)
    window = round(WINDOW * rate)
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
    bands = functional.melscale_fbanks(power.shape[0], 0.0, rate / 2, BANDS, rate).T @ power
    decibels = 10 * torch.log10(bands + 1e-10)
    return (decibels - decibels.max()).clamp(min=-RANGE).numpy(), hop / rate


def peaks(clip: np.ndarray) -> np.ndarray:
    """The lowest and highest sample of each of MOST_PEAKS stretches at most, (2, stretches), full scale at
    127, as int8.
    """
    parts = np.array_split(clip, min(MOST_PEAKS, max(1, len(clip))))
    ends = [[part.min(initial=0), part.max(initial=0)] for part in parts]
    return np.round(np.array(ends).T / 32768.0 * 127).astype(np.int8)


# ------------------------------------------------------------------------------------------------------------
# for the page


def packed(clip: np.ndarray, rate: int, heard: Sequence[UtteranceAnalysis]) -> dict[str, Any]:
    """All of it as JSON: arrays as base64 of their bytes, sound as FLAC. heard: by each of the runs that are
    set side by side.
    """
    picture, step = spectrogram(clip, rate)
    shades = np.round((picture / RANGE + 1) * 255).astype(np.uint8)
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
        "heard": [_emissions(one) for one in heard],
    }


def flac(clip: np.ndarray, rate: int) -> bytes:
    """int16 samples as a FLAC file, which every browser plays."""
    file = io.BytesIO()
    soundfile.write(file, clip, rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def _emissions(heard: UtteranceAnalysis) -> dict[str, Any]:
    labels = shown_labels(heard)
    shades = np.round(heard.posteriors[:, labels].T * 255).astype(np.uint8)
    rows = {label: row for row, label in enumerate(labels)}
    return {
        "labels": [heard.tokens[label] for label in labels],
        "frames": len(heard.posteriors),
        "frame": heard.frame,
        "shades": _base64(shades.tobytes()),
        "best": [rows.get(label, -1) for label in heard.best],
        "reference": _times(heard.reference),
        "hypothesis": _times(heard.hypothesis),
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
