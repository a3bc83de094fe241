"""Uploaded recordings, decoded to the samples that a model takes. These functions take long: they run in a
thread, never in the event loop.
"""

import base64
import json
from typing import Any, BinaryIO

import numpy as np
import soxr

from asr_exp.commands.serve.limits import HTTPError, ServeLimits
from asr_exp.core.errors import UserError
from asr_exp.data.audio import Samples, as_int16, read_clip
from asr_exp.data.formats.ffmpeg import FFMPEG
from asr_exp.data.recordings import InMemory, read_recording

SUPPORTED = "send WAV, FLAC, MP3, Ogg (Vorbis or Opus), AIFF, AU or NIST SPHERE"
MAX_SAMPLES = 2**26  # of all channels, before resampling: 256 MB while it is decoded
NAME = "file"  # the name that read_recording's messages begin with


def recording_from_json(body: BinaryIO) -> bytes:
    """The recording in {"file": BASE64}; the base64 may be wrapped into lines, and may be a data: URL.

    Raises HTTPError (400) for a body of another form.
    """
    try:
        message: Any = json.load(body)
        text = message["file"]
        text = "".join((text.rpartition(",")[2] if text.startswith("data:") else text).split())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise HTTPError(
            400, 'The body is not JSON of the form {"file": "BASE64 OF AN AUDIO FILE"}.'
        ) from None
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise HTTPError(400, "What stands in 'file' is not base64.") from None


def decode_upload(audio: bytes, rate: int, limits: ServeLimits) -> Samples:
    """Decode a recording, as the command `transcribe` does -> (samples,) int16 mono at `rate` hertz.

    Raises HTTPError for a recording that is too large or, by its header, too long (413), and for one that
    cannot be decoded (400).
    """
    if not audio:
        raise HTTPError(400, f"The file is empty; {SUPPORTED}.")
    if len(audio) > limits.max_bytes:
        raise HTTPError(
            413, f"The recording is larger than the {limits.max_bytes / 2**20:g} MB this server takes."
        )
    clip = read_clip(InMemory(audio), True, rate, limits.max_seconds)  # type: ignore[arg-type]
    if clip.seconds > limits.max_seconds:
        # ffmpeg was stopped there
        length = "longer" if clip.format.startswith(FFMPEG) else f"{clip.seconds:.0f} s long"
        raise HTTPError(
            413,
            f"The recording is {length}, and this server takes {limits.max_seconds:g} s; cut it.",
        )
    if clip.frames * clip.channels > MAX_SAMPLES:
        raise HTTPError(
            413,
            f"The recording has {clip.frames * clip.channels:,} samples, more than this server decodes; mix"
            " it down.",
        )
    try:
        return read_recording(audio, rate, NAME, limits.max_seconds)
    except UserError as why:
        reason = str(why).removeprefix(f"{NAME}: ").rstrip(".")
        raise HTTPError(400, f"The file cannot be read as audio ({reason}); {SUPPORTED}.") from None


def resample(pcm: bytes, source_rate: int, target_rate: int) -> np.ndarray:
    """16-bit mono samples at another rate -> (samples,) int16, the same as `decode_upload` returns for a WAV
    file of these samples.
    """
    samples = np.frombuffer(pcm, dtype=np.int16)
    if source_rate == target_rate:
        return samples
    return as_int16(soxr.resample(samples.astype(np.float32) / 32768, source_rate, target_rate))
