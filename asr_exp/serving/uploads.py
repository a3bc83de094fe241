"""Recordings as they were sent, to the samples a model takes. All of it is work for a thread other than the event loop's."""

import base64
import binascii
import io
import json
import wave
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from asr_exp.data.clips import Clip, decode, read_clip
from asr_exp.serving.limits import Limits, Refused

READABLE = "send WAV, FLAC, MP3, Ogg (Vorbis or Opus), AIFF, AU or NIST SPHERE"
MOST_SAMPLES = 2**26  # of all channels, before resampling: 256 MB while it is decoded


@dataclass(frozen=True)
class Upload:
    """Encoded audio in memory."""

    data: bytes
    start: float | None = None
    end: float | None = None

    def open(self) -> BinaryIO:
        return io.BytesIO(self.data)


def from_json(body: BinaryIO) -> Upload:
    """The recording in {"file": BASE64}; the base64 may be a data: URL. Raises Refused (400)."""
    body.seek(0)
    try:
        given: Any = json.load(body)
        text = given["file"]
        return Upload(base64.b64decode(text.rpartition(",")[2] if text.startswith("data:") else text, validate=True))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, binascii.Error):
        raise Refused(400, 'The body is not JSON of the form {"file": "BASE64 OF AN AUDIO FILE"}.') from None


def header(upload: Upload, limits: Limits) -> Clip:
    """What the header says of a recording. Raises Refused for what cannot be read (400) or is too large or long (413)."""
    if not upload.data:
        raise Refused(400, f"The file is empty; {READABLE}.")
    if len(upload.data) > limits.max_bytes:
        raise Refused(413, f"The recording is larger than the {limits.max_bytes / 2**20:g} MB this server takes.")
    clip = read_clip(upload, header_only=True)
    if clip.seconds > limits.max_seconds:
        raise Refused(413, f"The recording is {clip.seconds:.0f} s long, and this server takes {limits.max_seconds:g} s; cut it.")
    if clip.reason:
        raise Refused(400, f"The file cannot be read as audio ({clip.reason.rstrip('.')}); {READABLE}.")
    if clip.frames * clip.channels > MOST_SAMPLES:
        raise Refused(413, f"The recording has {clip.frames * clip.channels:,} samples, more than this server decodes; mix it down.")
    return clip


def samples(upload: Upload, rate: int) -> np.ndarray:
    """A recording, (samples,) int16 at `rate`, as `transcribe` decodes it. Raises Refused (400) where it is damaged."""
    clip = decode(upload, rate)
    if clip.samples is None:
        raise Refused(400, f"The file cannot be read as audio ({clip.reason.rstrip('.')}); {READABLE}.")
    return clip.samples


def resampled(pcm: bytes, rate: int, wanted: int) -> np.ndarray:
    """16-bit mono samples at another rate, as `samples` gives them of a WAV file that holds them."""
    if rate == wanted:
        return np.frombuffer(pcm, dtype=np.int16)
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(pcm)
    return samples(Upload(held.getvalue()), wanted)
