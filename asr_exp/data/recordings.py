"""Read recordings of any length, format, rate and number of channels, from files, folders, globs, bytes and
standard input.
"""

import glob
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile
import soxr

from asr_exp.core.errors import UserError
from asr_exp.data.audio import TOLERANCE, Clip, Samples, as_int16, decode, mixed_down, read_clip
from asr_exp.data.corpora import FileAudio

STDIN = "-"
# The suffixes of the files that a folder is searched for: libsndfile reads those, ffmpeg the others.
SUFFIXES = (
    ".wav",
    ".flac",
    ".mp3",
    ".ogg",
    ".oga",
    ".opus",
    ".sph",
    ".nist",
    ".aif",
    ".aiff",
    ".au",
    ".caf",
    ".w64",
    ".rf64",
)
FFMPEG_SUFFIXES = (
    ".m4a",
    ".mp4",
    ".aac",
    ".wma",
    ".webm",
    ".mkv",
    ".mov",
    ".avi",
    ".3gp",
    ".amr",
    ".m4b",
    ".mka",
)
IN_MEMORY = 600.0  # seconds; a longer recording is kept in a temporary file
READ_SAMPLES = 2**20  # samples (or bytes of standard input) that are read at a time
# Containers that ffmpeg may open. Not playlists: an uploaded one could name other files.
CONTAINERS = "aac,ac3,aiff,amr,asf,avi,caf,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,wav,webm"


class Spool:
    """int16 samples in a temporary file that is deleted with this object. Indexing reads a slice from the
    file.
    """

    def __init__(self, blocks: Iterable[np.ndarray]):
        self._file = tempfile.TemporaryFile(prefix="asr_exp-")  # noqa: SIM115
        for block in blocks:
            self._file.write(block.tobytes())
        self._file.flush()
        self._samples = self._file.tell() // 2

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, span: slice) -> np.ndarray:
        start, stop, _ = span.indices(self._samples)
        return np.frombuffer(
            os.pread(self._file.fileno(), 2 * max(0, stop - start), 2 * start), dtype=np.int16
        )


@dataclass(frozen=True)
class InMemory:
    """The contents of an audio file, in the place of a `FileAudio`."""

    data: bytes
    start: float | None = None
    end: float | None = None

    def open(self) -> BytesIO:
        return BytesIO(self.data)


def named_files(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Expand names of files, folders (with all that is below them) and globs -> (recordings, complaints).

    Each recording is listed once. A complaint names a folder or a glob that gives no file.
    """
    files: dict[str, None] = {}  # in order, each once
    complaints = []
    for name in names:
        path = Path(name).expanduser()
        if name == STDIN or path.is_file() or not (path.is_dir() or glob.has_magic(str(path))):
            files[name if name == STDIN else str(path)] = None
            continue
        if path.is_dir():
            suffixes = (*SUFFIXES, *FFMPEG_SUFFIXES)
            matches = [file for file in path.rglob("*") if file.suffix.lower() in suffixes]
        else:
            matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
        recordings = sorted(str(match) for match in matches if match.is_file())
        files |= dict.fromkeys(recordings)
        if not recordings:
            problem = "no recording in this folder" if path.is_dir() else "no file fits this pattern"
            complaints.append(f"{name}: {problem}")
    return list(files), complaints


def seconds_of(name: str) -> float:
    """The length of a recording in seconds, by its header; 0 where the header does not give it."""
    return 0.0 if name == STDIN else read_clip(FileAudio(name), header_only=True, longest=math.inf).seconds


def read_recording(
    source: str | os.PathLike | bytes, rate: int, name: str = "", longest: float = math.inf
) -> Samples:
    """Read the samples of a recording as the audio store has them: int16, mono, at `rate`, shape (samples,).

    source: a path, `-` for standard input, or the contents of a file; name: what messages call it; longest:
    seconds. Raises UserError, one sentence with the name, for a recording that is missing, no audio, damaged
    or too long.
    """
    if source == STDIN:
        with _standard_input() as path:
            return read_recording(path, rate, name or "standard input", longest)
    audio = InMemory(source) if isinstance(source, bytes) else FileAudio(os.fspath(source))
    name = name or (audio.path if isinstance(audio, FileAudio) else "the recording")
    if _is_empty(audio):
        raise UserError(f"{name}: empty: the file holds no audio.")
    clip = read_clip(audio, header_only=True, longest=math.inf)  # type: ignore[arg-type]
    if _needs_ffmpeg(audio, clip):
        samples: Samples = _collect(_ffmpeg_blocks(audio, rate, name, longest), rate)
    elif clip.seconds > longest:
        raise UserError(_too_long(name, longest))
    elif clip.reason or clip.seconds <= IN_MEMORY:
        clip = clip if clip.reason else decode(audio, rate)  # type: ignore[arg-type]
        if clip.samples is None:
            raise UserError(f"{name}: {clip.reason}.")
        samples = clip.samples
    else:
        samples = Spool(_decoded_blocks(audio, rate, name, clip))
    if not len(samples):
        raise UserError(f"{name}: empty: the file holds no audio.")
    return samples


def _too_long(name: str, longest: float) -> str:
    return f"{name}: longer than {longest:g} s, which is the most that is taken."


@contextmanager
def _standard_input() -> Iterator[str]:
    """Copy standard input to a temporary file, in which a decoder can seek."""
    if sys.stdin.isatty():
        raise UserError(
            "files=- reads a recording from standard input, which is this terminal; write `... files=- <"
            " FILE`."
        )
    with tempfile.NamedTemporaryFile(prefix="asr_exp-") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, READ_SAMPLES)
        file.flush()
        yield file.name


def _decoded_blocks(audio: FileAudio | InMemory, rate: int, name: str, clip: Clip) -> Iterator[np.ndarray]:
    """Decode a long file block by block; the samples are those that `decode` gives."""
    try:
        with soundfile.SoundFile(audio.open()) as file:
            as_is = (clip.rate, clip.channels, file.subtype) == (rate, 1, "PCM_16")
            stream = None if clip.rate == rate else soxr.ResampleStream(clip.rate, rate, 1)
            left = clip.frames
            while len(
                block := file.read(
                    min(READ_SAMPLES, left), dtype="int16" if as_is else "float32", always_2d=not as_is
                )
            ):
                left -= len(block)
                if not as_is:
                    if not np.isfinite(block).all():
                        raise UserError(f"{name}: unreadable: samples that are not finite.")
                    mono = np.ascontiguousarray(mixed_down(block))
                    block = as_int16(stream.resample_chunk(mono, last=not left) if stream else mono)
                yield block
            if left and stream:
                yield as_int16(stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True))
    except (soundfile.LibsndfileError, RuntimeError) as why:
        raise UserError(f"{name}: unreadable: its audio is damaged.") from why
    if left > (0 if clip.exact else TOLERANCE * clip.rate):
        raise UserError(
            f"{name}: truncated: {clip.frames - left} samples where the header promises {clip.frames}."
        )


# ------------------------------------------------------------------------------------------------------------
# files that libsndfile does not read


def _needs_ffmpeg(audio: FileAudio | InMemory, clip: Clip) -> bool:
    """Whether a file exists whose header libsndfile cannot read; ffmpeg may."""
    exists = isinstance(audio, InMemory) or os.path.isfile(audio.path)
    return clip.reason.startswith("unreadable") and not clip.decode_failure and exists


def _is_empty(audio: FileAudio | InMemory) -> bool:
    return (
        not audio.data
        if isinstance(audio, InMemory)
        else os.path.isfile(audio.path) and not os.path.getsize(audio.path)
    )


def _collect(blocks: Iterator[np.ndarray], rate: int) -> Samples:
    """Put blocks of samples together: in memory up to `IN_MEMORY` seconds, else in a temporary file."""
    start: list[np.ndarray] = []
    for block in blocks:
        start.append(block)
        if sum(map(len, start)) > IN_MEMORY * rate:
            return Spool(_chain(start, blocks))
    return np.concatenate(start) if start else np.zeros(0, dtype=np.int16)


def _chain(start: list[np.ndarray], rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the blocks of `start`, each of which is freed at once, then those of `rest`."""
    while start:
        yield start.pop(0)
    yield from rest


def _ffmpeg_blocks(audio: FileAudio | InMemory, rate: int, name: str, longest: float) -> Iterator[np.ndarray]:
    """Decode the first audio stream of a file with ffmpeg, block by block: int16, mono, at `rate`."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise UserError(
            f"{name}: libsndfile finds no audio that it can read in it, and there is no ffmpeg on the PATH,"
            " which reads more (M4A, video)."
        )
    with tempfile.NamedTemporaryFile(prefix="asr_exp-") as copy, tempfile.TemporaryFile() as errors:
        path = audio.path if isinstance(audio, FileAudio) else copy.name
        if isinstance(audio, InMemory):
            copy.write(audio.data)
            copy.flush()
        source = ["-protocol_whitelist", "file", "-format_whitelist", CONTAINERS, "-i", f"file:{path}"]
        target = ["-map", "0:a:0", "-ac", "1", "-ar", str(rate), "-f", "s16le", "-"]
        command = [program, "-nostdin", "-v", "error", *source, *target]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        assert process.stdout is not None
        left = longest * rate
        try:
            while block := process.stdout.read(2 * READ_SAMPLES):
                samples = np.frombuffer(block[: len(block) // 2 * 2], dtype="<i2")
                left -= len(samples)
                if left < 0:
                    raise UserError(_too_long(name, longest))
                yield samples
            if process.wait():
                raise UserError(
                    f"{name}: neither libsndfile nor ffmpeg finds audio that they can read in it."
                )
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
