"""Read a clip from its file, and decode it as the store keeps it: int16, mono, at the store's rate."""

import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import soundfile
import soxr

from asr_exp.data.corpora import FileAudio, TableAudio
from asr_exp.data.formats.ffmpeg import FFMPEG, MISSING, open_with_ffmpeg
from asr_exp.data.formats.sound import Sound, open_sound
from asr_exp.data.segments import samples_of

TOLERANCE = 0.25  # seconds by which a compressed file may be shorter than its header says, as MP3 files are
MAX_SECONDS = 3600.0  # of one clip; a longer recording has to be segmented first
# Formats whose header gives the length to the sample, and whose samples are always finite.
EXACT = {
    f"{container} {subtype}"
    for container in ("WAV", "WAVEX", "RF64", "NIST", "FLAC")
    for subtype in ("PCM_U8", "PCM_S8", "PCM_16", "PCM_24", "PCM_32", "ULAW", "ALAW")
}

Audio = FileAudio | TableAudio


class Samples(Protocol):
    """int16 samples, mono: an array, or an object that reads a slice when it is indexed."""

    def __len__(self) -> int: ...
    def __getitem__(self, span: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Clip:
    """A clip as its file has it.

    reason: why it cannot be used, or ''; rate: samples a second; frames: samples of each channel, of the
    segment alone; format: container and subtype, such as 'WAV PCM_16'; samples: (frames, channels) float32,
    full scale at 1, or int16 as `decode` makes them, or None where they were not read; decode_failure:
    whether it was decoding that showed the reason, not the header.
    """

    reason: str
    rate: int = 0
    frames: int = 0
    channels: int = 0
    format: str = ""
    samples: np.ndarray | None = None
    decode_failure: bool = False

    @property
    def seconds(self) -> float:
        return self.frames / self.rate if self.rate else 0.0

    @property
    def exact(self) -> bool:
        """Whether the header alone says how many samples decoding gives."""
        return self.format in EXACT

    def length(self, rate: int) -> int:
        """The number of samples of the clip at another rate, as soxr resamples it."""
        return (2 * self.frames * rate + self.rate) // (2 * self.rate)


def read_clip(
    audio: Audio, header_only: bool = False, native_rate: int | None = None, longest: float = MAX_SECONDS
) -> Clip:
    """Read a clip, or its header alone. What cannot be used is no error: `Clip.reason` says why.

    The header (of a FLAC file, its end too) does not show damage to compressed data, nor whether an Ogg file
    is whole. native_rate: a clip that is mono, of 16 bits and at this rate keeps its samples, (frames,)
    int16. longest: seconds; a longer clip cannot be used.
    """
    clip = None
    try:
        is_segment = not (audio.start is audio.end is None)
        with open_audio(audio, native_rate, math.inf if is_segment else longest) as sound:
            clip = _header(audio, sound, longest)
            if clip.reason or header_only:
                return clip
            as_is = (clip.rate, clip.channels, sound.subtype) == (native_rate, 1, "PCM_16")
            samples = sound.read(clip.frames, "int16" if as_is else "float32", always_2d=not as_is)
    except (soundfile.LibsndfileError, OSError, RuntimeError, ValueError, TypeError) as why:
        if clip is not None:  # libsndfile's own words would depend on the files that it read before
            return replace(clip, reason="unreadable: its audio is damaged", decode_failure=True)
        reason = f"unreadable: {getattr(why, 'error_string', why)}".rstrip(".")
        return Clip(
            "no such file" if isinstance(audio, FileAudio) and not os.path.exists(audio.path) else reason
        )
    missing = clip.frames - len(samples)
    if missing > (0 if clip.exact else TOLERANCE * clip.rate):
        return replace(
            clip,
            reason=f"truncated: {len(samples)} samples where the header promises {clip.frames}",
            decode_failure=True,
        )
    if samples.dtype != np.int16 and not np.isfinite(samples).all():
        return replace(clip, reason="unreadable: samples that are not finite", decode_failure=True)
    return replace(clip, frames=len(samples), samples=samples)


def decode(audio: Audio, rate: int) -> Clip:
    """Read a clip with its samples as the store keeps them: int16, mono, at `rate`, shape (length,)."""
    clip = read_clip(audio, native_rate=rate)
    if clip.samples is None or clip.samples.dtype == np.int16:
        return clip
    mono = mixed_down(clip.samples)
    if clip.rate != rate:
        mono = soxr.resample(mono, clip.rate, rate)
    return replace(clip, samples=as_int16(mono))


def can_be_read_now(reasons: Mapping[str, str]) -> bool:
    """Whether one of the reasons (the values) why clips were not used was that there was no ffmpeg, and now
    there is one.
    """
    return any(MISSING in reason for reason in reasons.values()) and shutil.which("ffmpeg") is not None


def mixed_down(samples: np.ndarray) -> np.ndarray:
    """Average the channels, (frames, channels) -> (frames,)."""
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)


def as_int16(samples: np.ndarray) -> np.ndarray:
    """Convert float32 samples, full scale at 1, to int16."""
    scaled = samples * np.float32(32768)
    return np.clip(np.rint(scaled, out=scaled), -32768, 32767, out=scaled).astype(np.int16)


def open_audio(audio: Audio, rate: int | None = None, longest: float = math.inf) -> Sound:
    """Open a recording with libsndfile, or where it cannot, with ffmpeg.

    rate: samples a second of what ffmpeg gives, then mono; None: those of the file. longest: seconds; of a
    longer recording ffmpeg decodes no more than shows that it is longer. Raises soundfile.LibsndfileError,
    FFmpegError, OSError and others where it cannot be opened.
    """
    try:
        return open_sound(audio)
    except soundfile.LibsndfileError:
        opened = audio.open()
        if not os.path.isfile(opened) or not os.path.getsize(opened) if isinstance(opened, str) else False:
            raise
        return open_with_ffmpeg(audio, rate, longest)


def _header(audio: Audio, sound: Sound, longest: float) -> Clip:
    """Read the header, and move to the start of the segment. Raises ValueError for a segment that lies
    outside the file.
    """
    if sound.frames == 0:
        return Clip("empty: the file holds no audio")
    if sound.format == "FLAC":  # a truncated file shows no sign of it but this error
        sound.seek(sound.frames - 1)
        sound.read(1, "int16")
        sound.seek(0)
    clip = Clip("", sound.rate, sound.frames, sound.channels, f"{sound.format} {sound.subtype}")
    if sound.is_cut:
        return replace(clip, reason=f"truncated: {clip.seconds:.2f} s where the header promises more")
    if _is_cut(audio, sound, clip):
        return replace(
            clip, reason=f"truncated: {sound.frames} samples where the header promises {sound.promised}"
        )
    clip = replace(clip, frames=_segment(audio, sound))
    if clip.frames > longest * sound.rate:
        length = f"more than {longest:.0f}" if sound.format == FFMPEG else f"{clip.seconds:.0f}"
        return replace(clip, reason=f"{length} s long; cut it into segments first")
    return clip


def _is_cut(audio: Audio, sound: Sound, clip: Clip) -> bool:
    """Whether the header promises more than there is. An MP3 may be a little shorter than its header says,
    and a segment of it may lie before the cut.
    """
    if not sound.subtype.startswith("MPEG"):
        return sound.promised > sound.frames
    needed = sound.promised if audio.end is None else min(sound.promised, audio.end * sound.rate)
    return needed - sound.frames > TOLERANCE * clip.rate


def _segment(audio: Audio, sound: Sound) -> int:
    """Move to the start of the segment and return the segment's length in samples of the file."""
    start, end = samples_of(audio, sound.frames, sound.rate)
    if start:
        sound.seek(start)
    return end - start
