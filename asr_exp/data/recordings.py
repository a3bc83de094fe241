"""Read recordings of any length, format, rate and number of channels, from files, folders, globs, bytes and
standard input.
"""

import glob
import math
import os
import shutil
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
from asr_exp.data.audio import TOLERANCE, Clip, Samples, as_int16, decode, mixed_down, open_audio, read_clip
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
    if name == STDIN or name.lower().endswith(FFMPEG_SUFFIXES):
        return 0.0
    return read_clip(FileAudio(name), header_only=True, longest=math.inf).seconds


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
    clip = read_clip(audio, True, rate, longest)  # type: ignore[arg-type]
    if clip.seconds > longest:
        raise UserError(_too_long(name, longest))
    elif clip.reason or clip.seconds <= IN_MEMORY:
        clip = clip if clip.reason else decode(audio, rate)  # type: ignore[arg-type]
        if clip.samples is None:
            raise UserError(f"{name}: {clip.reason}.")
        samples: Samples = clip.samples
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
        with open_audio(audio, rate) as sound:  # type: ignore[arg-type]
            as_is = (clip.rate, clip.channels, sound.subtype) == (rate, 1, "PCM_16")
            stream = None if clip.rate == rate else soxr.ResampleStream(clip.rate, rate, 1)
            left = clip.frames
            while len(
                block := sound.read(
                    min(READ_SAMPLES, left), "int16" if as_is else "float32", always_2d=not as_is
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


def _is_empty(audio: FileAudio | InMemory) -> bool:
    return (
        not audio.data
        if isinstance(audio, InMemory)
        else os.path.isfile(audio.path) and not os.path.getsize(audio.path)
    )
