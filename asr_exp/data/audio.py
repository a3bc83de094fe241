"""Read a clip from its file, and decode it as the store keeps it: int16, mono, at the store's rate."""

import os
import re
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import soundfile
import soxr

from asr_exp.data.corpora import FileAudio, TableAudio
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

    The header (of a FLAC file, its end too) does not show damage to compressed data, nor whether an MP3 or
    Ogg file is whole. native_rate: a clip that is mono, of 16 bits and at this rate keeps its samples,
    (frames,) int16. longest: seconds; a longer clip cannot be used.
    """
    clip = None
    try:
        with soundfile.SoundFile(audio.open()) as file:
            clip = _header(audio, file, longest)
            if clip.reason or header_only:
                return clip
            as_is = (clip.rate, clip.channels, file.subtype) == (native_rate, 1, "PCM_16")
            samples = (
                file.read(clip.frames, dtype="int16")
                if as_is
                else file.read(clip.frames, dtype="float32", always_2d=True)
            )
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
    return replace(clip, samples=samples)


def decode(audio: Audio, rate: int) -> Clip:
    """Read a clip with its samples as the store keeps them: int16, mono, at `rate`, shape (length,)."""
    clip = read_clip(audio, native_rate=rate)
    if clip.samples is None or clip.samples.dtype == np.int16:
        return clip
    mono = mixed_down(clip.samples)
    if clip.rate != rate:
        mono = soxr.resample(mono, clip.rate, rate)
    return replace(clip, samples=as_int16(mono))


def mixed_down(samples: np.ndarray) -> np.ndarray:
    """Average the channels, (frames, channels) -> (frames,)."""
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)


def as_int16(samples: np.ndarray) -> np.ndarray:
    """Convert float32 samples, full scale at 1, to int16."""
    scaled = samples * np.float32(32768)
    return np.clip(np.rint(scaled, out=scaled), -32768, 32767, out=scaled).astype(np.int16)


def _header(audio: Audio, file: soundfile.SoundFile, longest: float) -> Clip:
    """Read the header, and move the file to the start of the segment. Raises ValueError for a segment that
    lies outside the file.
    """
    if file.frames == 0:
        return Clip("empty: the file holds no audio")
    if file.format == "FLAC":  # a truncated file shows no sign of it but this error
        file.seek(file.frames - 1)
        file.read(1)
        file.seek(0)
    promised, frames = _promised(audio, file), _segment(audio, file)
    clip = Clip("", file.samplerate, frames, file.channels, f"{file.format} {file.subtype}")
    if promised > file.frames:
        return replace(clip, reason=f"truncated: {file.frames} samples where the header promises {promised}")
    if frames > longest * file.samplerate:
        return replace(clip, reason=f"{clip.seconds:.0f} s long; cut it into segments first")
    return clip


def _promised(audio: Audio, file: soundfile.SoundFile) -> int:
    """The number of samples that the header promises, where libsndfile goes by the size of the file instead
    (WAV, NIST SPHERE); else 0.
    """
    if file.format == "NIST":
        source = audio.open()
        with open(source, "rb") if isinstance(source, str) else source as start:
            header = start.read(1024)
        count = re.search(rb"sample_count -i (\d+)", header)
        return int(count.group(1)) if count else 0
    # These have no such line, and libsndfile takes as long to write `extra_info` as to open the file.
    if file.format in ("FLAC", "MP3", "OGG"):
        return 0
    sizes = re.search(r"data : (\d+) \(should be (\d+)\)", file.extra_info)
    in_header, in_file = map(int, sizes.groups()) if sizes else (0, 0)
    # the header of a stream has the largest number there is
    return file.frames * in_header // in_file if in_file and in_header < 0x7FFFFFFF else 0


def _segment(audio: Audio, file: soundfile.SoundFile) -> int:
    """Move a file to the start of the segment and return the segment's length in samples of the file."""
    start, end = samples_of(audio, file.frames, file.samplerate)
    if start:
        file.seek(start)
    return end - start
