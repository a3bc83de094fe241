"""A clip as its file holds it, and as the store keeps it: int16, mono, at the store's rate."""

import os
import re
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import soundfile
import soxr

from asr_exp.data.corpora import FileAudio, TableAudio

TOLERANCE = 0.25  # seconds; MP3 headers promise a little more than there is
LONGEST = 3600.0  # seconds of one clip; more is a recording to be segmented first
# Formats whose header tells the length to the sample, and whose samples cannot be other than finite.
EXACT = {
    f"{container} {subtype}"
    for container in ("WAV", "WAVEX", "RF64", "NIST", "FLAC")
    for subtype in ("PCM_U8", "PCM_S8", "PCM_16", "PCM_24", "PCM_32", "ULAW", "ALAW")
}

Audio = FileAudio | TableAudio


class Samples(Protocol):
    """int16 samples, mono: an array, or what reads them when a slice is asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, span: slice, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Clip:
    """What a file says of a clip. frames: of the segment, at its own `rate`; reason: why it cannot be used,
    or ''; late: whether it took more than the header to find that out; samples: (frames, channels) float32,
    full scale at 1, or as `decode` makes them, or None where they were not asked for or cannot be had."""

    reason: str
    rate: int = 0
    frames: int = 0
    channels: int = 0
    format: str = ""
    samples: np.ndarray | None = None
    late: bool = False

    @property
    def seconds(self) -> float:
        return self.frames / self.rate if self.rate else 0.0

    @property
    def exact(self) -> bool:
        """Whether the header alone tells how many samples decoding gives."""
        return self.format in EXACT

    def length(self, rate: int) -> int:
        """Samples of the clip at another rate: what soxr makes of its frames."""
        return (2 * self.frames * rate + self.rate) // (2 * self.rate)


def read_clip(
    audio: Audio, header_only: bool = False, plain: int | None = None, longest: float = LONGEST
) -> Clip:
    """A clip as its file holds it. Its header (of a FLAC file, the end too) tells all but whether what is
    compressed is undamaged, and an MP3 or Ogg file whole.

    plain: a rate; the samples of a clip that has it, is mono and of 16 bits come as they are, (frames,)
    int16. longest: seconds.
    """
    clip = None
    try:
        with soundfile.SoundFile(audio.open()) as file:
            clip = _header(audio, file, longest)
            if clip.reason or header_only:
                return clip
            as_is = (clip.rate, clip.channels, file.subtype) == (plain, 1, "PCM_16")
            samples = (
                file.read(clip.frames, dtype="int16")
                if as_is
                else file.read(clip.frames, dtype="float32", always_2d=True)
            )
    except (soundfile.LibsndfileError, OSError, RuntimeError, ValueError, TypeError) as why:
        if clip is not None:  # what libsndfile says of it depends on what it was asked before
            return replace(clip, reason="unreadable: its audio is damaged", late=True)
        reason = f"unreadable: {getattr(why, 'error_string', why)}".rstrip(".")
        return Clip(
            "no such file" if isinstance(audio, FileAudio) and not os.path.exists(audio.path) else reason
        )
    missing = clip.frames - len(samples)
    if missing > (0 if clip.exact else TOLERANCE * clip.rate):
        return replace(
            clip,
            reason=f"truncated: {len(samples)} samples where the header promises {clip.frames}",
            late=True,
        )
    if samples.dtype != np.int16 and not np.isfinite(samples).all():
        return replace(clip, reason="unreadable: samples that are not finite", late=True)
    return replace(clip, samples=samples)


def decode(audio: Audio, rate: int) -> Clip:
    """A clip with its samples as the store keeps them: int16, mono, at `rate`, shape (length,)."""
    clip = read_clip(audio, plain=rate)
    if clip.samples is None or clip.samples.dtype == np.int16:
        return clip
    mono = mixed_down(clip.samples)
    if clip.rate != rate:
        mono = soxr.resample(mono, clip.rate, rate)
    return replace(clip, samples=as_int16(mono))


def mixed_down(samples: np.ndarray) -> np.ndarray:
    """The mean of the channels, (frames, channels) -> (frames,)."""
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)


def as_int16(samples: np.ndarray) -> np.ndarray:
    """float32 samples, full scale at 1, as int16."""
    scaled = samples * np.float32(32768)
    return np.clip(np.rint(scaled, out=scaled), -32768, 32767, out=scaled).astype(np.int16)


def _header(audio: Audio, file: soundfile.SoundFile, longest: float) -> Clip:
    """What the header says, the file moved to the segment's start. Raises ValueError for a segment that lies
    outside.
    """
    if file.frames == 0:
        return Clip("empty: the file holds no audio")
    if file.format == "FLAC":  # its header speaks of samples that may not be there: then this is an error
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
    """Samples the header speaks of, where libsndfile quietly goes by the size of the file instead (WAV, NIST
    SPHERE).
    """
    if file.format == "NIST":
        source = audio.open()
        with open(source, "rb") if isinstance(source, str) else source as start:
            head = start.read(1024)
        count = re.search(rb"sample_count -i (\d+)", head)
        return int(count.group(1)) if count else 0
    # have no such line, and it takes as long to write as to open the file
    if file.format in ("FLAC", "MP3", "OGG"):
        return 0
    sizes = re.search(r"data : (\d+) \(should be (\d+)\)", file.extra_info)
    said, found = map(int, sizes.groups()) if sizes else (0, 0)
    # a stream's header says 'as long as can be'
    return file.frames * said // found if found and said < 0x7FFFFFFF else 0


def _segment(audio: Audio, file: soundfile.SoundFile) -> int:
    """Move to the segment's start -> its length in the file's own samples."""
    start = round((audio.start or 0.0) * file.samplerate)
    end = file.frames if audio.end is None else round(audio.end * file.samplerate)
    if not 0 <= start < min(end, file.frames) or end > file.frames + file.samplerate // 10:
        raise ValueError(
            f"the segment {audio.start}-{audio.end} s lies outside the file of"
            f" {file.frames / file.samplerate:.2f} s"
        )
    if start:
        file.seek(start)
    return min(end, file.frames) - start
