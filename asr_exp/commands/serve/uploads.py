"""Recordings as they were sent, to the samples a model takes. All of it is work for a thread other than the
event loop's.
"""

import base64
import json
import math
from typing import Any, BinaryIO

import numpy as np
import soxr

from asr_exp.commands.serve.limits import HTTPError, ServeLimits
from asr_exp.core.errors import UserError
from asr_exp.data.audio import Samples, as_int16, read_clip
from asr_exp.data.recordings import InMemory, read_recording

READABLE = "send WAV, FLAC, MP3, Ogg (Vorbis or Opus), AIFF, AU or NIST SPHERE"
MOST_SAMPLES = 2**26  # of all channels, before resampling: 256 MB while it is decoded
NAME = "file"  # what read_recording is to call it


def from_json(body: BinaryIO) -> bytes:
    """The recording in {"file": BASE64}; the base64 may be a data: URL. Raises Refused (400)."""
    try:
        given: Any = json.load(body)
        text = given["file"]
        # base64 may come in lines
        text = "".join((text.rpartition(",")[2] if text.startswith("data:") else text).split())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise HTTPError(
            400, 'The body is not JSON of the form {"file": "BASE64 OF AN AUDIO FILE"}.'
        ) from None
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise HTTPError(400, "What stands in 'file' is not base64.") from None


def samples(audio: bytes, rate: int, limits: ServeLimits) -> Samples:
    """A recording, (samples,) int16 at `rate`, as `transcribe` reads it.

    Raises Refused for what is too large or, by its header, too long (413), and for what cannot be read (400).
    """
    if not audio:
        raise HTTPError(400, f"The file is empty; {READABLE}.")
    if len(audio) > limits.max_bytes:
        raise HTTPError(
            413, f"The recording is larger than the {limits.max_bytes / 2**20:g} MB this server takes."
        )
    clip = read_clip(InMemory(audio), header_only=True, longest=math.inf)  # type: ignore[arg-type]
    if clip.seconds > limits.max_seconds:
        raise HTTPError(
            413,
            f"The recording is {clip.seconds:.0f} s long, and this server takes {limits.max_seconds:g} s;"
            " cut it.",
        )
    if clip.frames * clip.channels > MOST_SAMPLES:
        raise HTTPError(
            413,
            f"The recording has {clip.frames * clip.channels:,} samples, more than this server decodes; mix"
            " it down.",
        )
    try:
        return read_recording(audio, rate, NAME, limits.max_seconds)
    except UserError as why:
        reason = str(why).removeprefix(f"{NAME}: ").rstrip(".")
        raise HTTPError(400, f"The file cannot be read as audio ({reason}); {READABLE}.") from None


def resampled(pcm: bytes, rate: int, wanted: int) -> np.ndarray:
    """16-bit mono samples at another rate, as `samples` gives them of a WAV file that holds them."""
    found = np.frombuffer(pcm, dtype=np.int16)
    return (
        found if rate == wanted else as_int16(soxr.resample(found.astype(np.float32) / 32768, rate, wanted))
    )
