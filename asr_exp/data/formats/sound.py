"""Open a recording with libsndfile, and hold what its header says against the file.

A header is a promise, and its kind says whether it can be believed: a WAV from a pipe, a FLAC of unknown
length or an MP3 without a Xing header say nothing, or a guess. Of those, what is there is counted (see
`mpeg`, `sizes` and `ogg`), and libsndfile is given the file behind a header that is right (see `splice`).
"""

import re
from collections.abc import Sequence
from typing import Any, BinaryIO, Protocol

import numpy as np
import soundfile
import soxr

from asr_exp.data.formats.mpeg import mpeg_parts
from asr_exp.data.formats.mpeg_frames import frame_header
from asr_exp.data.formats.ogg import ogg_parts
from asr_exp.data.formats.sizes import STREAMED, is_other_container, sized_parts
from asr_exp.data.formats.splice import Part, Splice
from asr_exp.data.formats.tags import leading_tags

PREROLL = 12 * 1152  # samples before a place in an MP3 that are decoded for the bits they hold of those after
UNKNOWN_FRAMES = 2**62  # and more: libsndfile's count where a file does not say


class Source(Protocol):
    """What a recording is read from."""

    def open(self) -> str | BinaryIO: ...


class _Sequential(soundfile.SoundFile):
    """A file that soundfile does not seek in after every block: in an MP3 that would damage the next one."""

    def seekable(self) -> bool:
        return False


class Sound:
    """A recording that is open.

    frames: samples of each channel that decoding gives, or, in a file whose header is believed, that it
    promises; rate: samples a second; format, subtype: libsndfile's names; promised: how many samples the
    header promises, where there are fewer; is_cut: whether more is missing than can be counted.
    """

    def __init__(
        self,
        file: soundfile.SoundFile,
        raw: BinaryIO | None = None,
        frames: int | None = None,
        promised: int = 0,
    ):
        self._file, self._raw = file, raw
        self.rate: int = file.samplerate
        self.channels: int = file.channels
        self.format: str = file.format
        self.subtype: str = file.subtype
        self.frames: int = file.frames if frames is None else frames
        self.promised, self.is_cut = promised, False
        self._at = 0

    def __enter__(self) -> "Sound":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._raw:
            self._raw.close()

    def seek(self, frame: int) -> None:
        """Go to a sample of each channel."""
        start = max(0, frame - PREROLL) if self.subtype.startswith("MPEG") else frame
        self._file.seek(start)
        if frame > start:
            self._file.read(frame - start, dtype="float32")
        self._at = frame

    def read(self, frames: int, dtype: str, always_2d: bool = False) -> np.ndarray:
        """Read up to so many samples of each channel, fewer where there are no more: (frames, channels), or
        (frames,) of one channel.
        """
        frames = max(0, min(frames, self.frames - self._at))
        samples = self._file.read(frames, dtype=dtype, always_2d=always_2d)
        self._at += len(samples)
        return samples


class JoinedSounds(Sound):
    """Recordings that follow one another in a file, at the rate and with the channels of the first."""

    def __init__(self, sounds: Sequence[Sound], raw: BinaryIO):
        first = sounds[0]
        super().__init__(first._file, raw)
        self._sounds = sounds
        self._ends = np.cumsum([(2 * s.frames * self.rate + s.rate) // (2 * s.rate) for s in sounds]).tolist()
        self.frames = self._ends[-1]
        self.promised = self._ends[-1] - sounds[-1].frames + sounds[-1].promised if sounds[-1].promised else 0
        self._converted: dict[int, np.ndarray] = {}

    def __exit__(self, *_: object) -> None:
        for sound in self._sounds:
            sound.__exit__()
        super().__exit__()

    def seek(self, frame: int) -> None:
        self._at = frame
        for number, sound in enumerate(self._sounds):
            start = self._ends[number - 1] if number else 0
            if start <= frame < self._ends[number] and self._is_alike(sound):
                sound.seek(frame - start)
            elif frame < start and self._is_alike(sound):
                sound.seek(0)

    def read(self, frames: int, dtype: str, always_2d: bool = False) -> np.ndarray:
        stop = min(self._at + frames, self.frames)
        blocks = [np.zeros((0, self.channels), dtype=dtype)]
        for number, end in enumerate(self._ends):
            if self._at < min(end, stop):
                start = self._ends[number - 1] if number else 0
                count = min(end, stop) - self._at
                block = self._read(number, self._at - start, count, dtype)
                blocks.append(block)
                self._at += len(block)
                if len(block) < count:
                    break
        samples = np.concatenate(blocks)
        return samples if always_2d or self.channels > 1 else samples[:, 0]

    def _is_alike(self, sound: Sound) -> bool:
        return (sound.rate, sound.channels) == (self.rate, self.channels)

    def _read(self, number: int, start: int, count: int, dtype: str) -> np.ndarray:
        sound = self._sounds[number]
        if self._is_alike(sound):
            return sound.read(count, dtype, always_2d=True)
        if number not in self._converted:
            samples = sound.read(sound.frames, "float32", always_2d=True)
            if sound.rate != self.rate:
                samples = soxr.resample(samples, sound.rate, self.rate)
            if sound.channels != self.channels:
                samples = np.repeat(samples.mean(axis=1, keepdims=True), self.channels, axis=1)
            self._converted[number] = samples
        samples = self._converted[number][start : start + count]
        if dtype == "int16":
            return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
        return samples


def open_sound(source: Source) -> Sound:
    """Open a recording. Raises soundfile.LibsndfileError where libsndfile cannot read it, and OSError and
    others where it cannot be opened.
    """
    opened = source.open()
    is_mp3 = _is_mp3(opened)  # mpg123 would complain on standard error of what is mended here
    if is_mp3 and (mended := _mended(source, "MP3")):
        return mended
    try:
        file = _Sequential(opened)
    except soundfile.LibsndfileError:
        if mended := _mended(source, ""):
            return mended
        raise
    try:
        bytes_promised, bytes_there = _data_sizes(source, file)
        is_stream = bytes_promised >= STREAMED or not 0 < file.frames < UNKNOWN_FRAMES
        is_compressed = file.format in ("MP3", "OGG") or file.subtype.startswith("MPEG")
        is_doubtful = (
            is_stream or is_compressed and not is_mp3 or file.format == "FLAC" and _is_tagged(source)
        )
        if is_doubtful and (mended := _mended(source, file.format)):
            file.close()
            return mended
        promised = file.frames * bytes_promised // bytes_there if bytes_there and not is_stream else 0
        return Sound(file, promised=promised)
    except BaseException:
        file.close()
        raise


def _is_mp3(opened: Any) -> bool:
    """Whether a file is MPEG audio, by its name or its first frame."""
    if isinstance(opened, str):
        return opened.lower().endswith((".mp3", ".mp2", ".mpga"))
    if not hasattr(opened, "seek"):
        return False
    opened.seek(leading_tags(opened))
    is_frame = frame_header(int.from_bytes(opened.read(4), "big")) is not None
    opened.seek(0)
    return is_frame


def _is_tagged(source: Source) -> bool:
    """Whether a file begins with an ID3 tag, behind which libsndfile does not find its way in a FLAC."""
    opened = source.open()
    with open(opened, "rb") if isinstance(opened, str) else opened as file:
        return file.read(3) == b"ID3"


def _data_sizes(source: Source, file: soundfile.SoundFile) -> tuple[int, int]:
    """The size of the audio by the header, and that in the file, where libsndfile says that they differ
    (WAV and its relatives) or does not look (NIST SPHERE, in samples); else (0, 0).
    """
    if file.format == "NIST":
        opened = source.open()
        with open(opened, "rb") if isinstance(opened, str) else opened as start:
            count = re.search(rb"sample_count -i (\d+)", start.read(1024))
        return (int(count.group(1)) if count else 0), file.frames
    # These have no such line, and libsndfile takes as long to write `extra_info` as to open the file.
    if file.format in ("FLAC", "MP3", "OGG"):
        return 0, 0
    sizes = re.search(r"data : (\d+) \(should be (\d+)\)", file.extra_info)
    return (int(sizes.group(1)), int(sizes.group(2))) if sizes else (0, 0)


def _mended(source: Source, format: str) -> Sound | None:
    """A recording behind a header that is right; None where its own need not be changed, and where this is no
    recording. format: that libsndfile sees in it.
    """
    try:
        opened: Any = source.open()
        raw: BinaryIO = open(opened, "rb") if isinstance(opened, str) else opened  # noqa: SIM115
    except OSError:  # libsndfile's error says that
        return None
    try:
        parts = _parts(raw, format)
        if parts and parts[0].is_plain:
            file = _Sequential(source.open())
            if file.frames >= (parts[0].frames or 0):
                raw.close()
                return Sound(file, frames=parts[0].frames)
            file.close()
        if parts:
            sounds = [_open_part(raw, part) for part in parts]
            return sounds[0] if len(sounds) == 1 else JoinedSounds(sounds, raw)
    except (soundfile.LibsndfileError, OSError):
        pass
    except BaseException:
        raw.close()
        raise
    raw.close()
    return None


def _parts(raw: BinaryIO, format: str) -> list[Part] | None:
    if format == "OGG":
        return ogg_parts(raw)
    parts = sized_parts(raw) if format != "MP3" else None
    return (
        mpeg_parts(raw) if parts is None and format in ("MP3", "") and not is_other_container(raw) else parts
    )


def _open_part(raw: BinaryIO, part: Part) -> Sound:
    file = _Sequential(Splice(part.head, raw, part.spans))
    if part.frames and file.frames < part.frames:
        # libsndfile's guess of MPEG audio, beyond which it does not read, follows from the size of the file
        file.close()
        copies = -(-part.frames // max(1, file.frames)) + 1
        file = _Sequential(Splice(part.head, raw, [*part.spans] * copies))
    return Sound(file, raw, part.frames, part.promised)
