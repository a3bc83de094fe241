"""Recordings to be transcribed: files, folders, globs, bytes, standard input; of any length, format, rate and
number of channels.
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
# What a folder is searched for: what libsndfile reads, and what ffmpeg does.
ENDINGS = (
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
FOREIGN = (".m4a", ".mp4", ".aac", ".wma", ".webm", ".mkv", ".mov", ".avi", ".3gp", ".amr", ".m4b", ".mka")
IN_MEMORY = 600.0  # seconds; a longer recording is kept in a temporary file
BLOCK = 2**20  # samples read at a time
# Containers that ffmpeg may open. Not playlists: an uploaded one could name other files.
CONTAINERS = "aac,ac3,aiff,amr,asf,avi,caf,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,wav,webm"


class Spool:
    """int16 samples in a temporary file that goes with this object; a slice is read when it is asked for,
    nothing is kept in memory.
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
    """A file's contents, to be read as a file is."""

    data: bytes
    start: float | None = None
    end: float | None = None

    def open(self) -> BytesIO:
        return BytesIO(self.data)


def named_files(asked: Iterable[str]) -> tuple[list[str], list[str]]:
    """(recordings, complaints): files as they are, those of a folder and all below it, those that fit a glob;
    each once.
    """
    found: dict[str, None] = {}
    complaints = []
    for name in asked:
        path = Path(name).expanduser()
        if name == STDIN or path.is_file() or not (path.is_dir() or glob.has_magic(str(path))):
            found[name if name == STDIN else str(path)] = None
            continue
        inside = path.rglob("*") if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
        wanted = sorted(
            str(one)
            for one in inside
            if one.is_file() and (not path.is_dir() or one.suffix.lower() in (*ENDINGS, *FOREIGN))
        )
        found |= dict.fromkeys(wanted)
        if not wanted:
            complaints.append(
                f"{name}: "
                + ("no recording in this folder" if path.is_dir() else "no file fits this pattern")
            )
    return list(found), complaints


def seconds_of(name: str) -> float:
    """How long a recording is, by its header; 0 where that cannot be told."""
    return 0.0 if name == STDIN else read_clip(FileAudio(name), header_only=True, longest=math.inf).seconds


def read_recording(
    source: str | os.PathLike | bytes, rate: int, name: str = "", longest: float = math.inf
) -> Samples:
    """The samples of a recording as the audio store has them: int16, mono, at `rate`, shape (samples,).

    source: a path, `-` for standard input, or a file's contents. longest: seconds. Raises UserError, one
    sentence that names the recording, for what is not there, is no audio, is damaged or too long.
    """
    if source == STDIN:
        with _standard_input() as path:
            return read_recording(path, rate, name or "standard input", longest)
    audio = InMemory(source) if isinstance(source, bytes) else FileAudio(os.fspath(source))
    name = name or (audio.path if isinstance(audio, FileAudio) else "the recording")
    if _is_empty(audio):
        raise UserError(f"{name}: empty: the file holds no audio.")
    clip = read_clip(audio, header_only=True, longest=math.inf)  # type: ignore[arg-type]
    if _is_foreign(audio, clip):
        samples: Samples = _spooled(_by_ffmpeg(audio, rate, name, longest), rate)
    elif clip.seconds > longest:
        raise UserError(_too_long(name, longest))
    elif clip.reason or clip.seconds <= IN_MEMORY:
        clip = clip if clip.reason else decode(audio, rate)  # type: ignore[arg-type]
        if clip.samples is None:
            raise UserError(f"{name}: {clip.reason}.")
        samples = clip.samples
    else:
        samples = Spool(_decoded(audio, rate, name, clip))
    if not len(samples):
        raise UserError(f"{name}: empty: the file holds no audio.")
    return samples


def _too_long(name: str, longest: float) -> str:
    return f"{name}: longer than {longest:g} s, which is the most that is taken."


@contextmanager
def _standard_input() -> Iterator[str]:
    """Standard input as a file, which can be searched back and forth."""
    if sys.stdin.isatty():
        raise UserError(
            "files=- reads a recording from standard input, which is this terminal; write `... files=- <"
            " FILE`."
        )
    with tempfile.NamedTemporaryFile(prefix="asr_exp-") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, BLOCK)
        file.flush()
        yield file.name


def _decoded(audio: FileAudio | InMemory, rate: int, name: str, clip: Clip) -> Iterator[np.ndarray]:
    """The samples of a long file block by block: those that `decode` gives."""
    try:
        with soundfile.SoundFile(audio.open()) as file:
            as_is = (clip.rate, clip.channels, file.subtype) == (rate, 1, "PCM_16")
            stream = None if clip.rate == rate else soxr.ResampleStream(clip.rate, rate, 1)
            left = clip.frames
            while len(
                block := file.read(
                    min(BLOCK, left), dtype="int16" if as_is else "float32", always_2d=not as_is
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
# what libsndfile does not read


def _is_foreign(audio: FileAudio | InMemory, clip: Clip) -> bool:
    """Whether a file that libsndfile makes nothing of may be something all the same."""
    there = isinstance(audio, InMemory) or os.path.isfile(audio.path)
    return clip.reason.startswith("unreadable") and not clip.late and there


def _is_empty(audio: FileAudio | InMemory) -> bool:
    return (
        not audio.data
        if isinstance(audio, InMemory)
        else os.path.isfile(audio.path) and not os.path.getsize(audio.path)
    )


def _spooled(blocks: Iterator[np.ndarray], rate: int) -> Samples:
    """Samples in memory as long as that is reasonable, else in a temporary file."""
    held: list[np.ndarray] = []
    for block in blocks:
        held.append(block)
        if sum(map(len, held)) > IN_MEMORY * rate:
            return Spool(_chained(held, blocks))
    return np.concatenate(held) if held else np.zeros(0, dtype=np.int16)


def _chained(held: list[np.ndarray], rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    while held:
        yield held.pop(0)
    yield from rest


def _by_ffmpeg(audio: FileAudio | InMemory, rate: int, name: str, longest: float) -> Iterator[np.ndarray]:
    """The first audio stream of a file as ffmpeg decodes it, block by block, as `read_recording` gives it."""
    program = shutil.which("ffmpeg")
    if program is None:
        told = (
            "libsndfile finds no audio that it can read in it, and there is no ffmpeg on the PATH, which"
            " reads more (M4A, video)"
        )
        raise UserError(f"{name}: {told}.")
    with tempfile.NamedTemporaryFile(prefix="asr_exp-") as copy, tempfile.TemporaryFile() as errors:
        path = audio.path if isinstance(audio, FileAudio) else copy.name
        if isinstance(audio, InMemory):
            copy.write(audio.data)
            copy.flush()
        inward = [
            "-protocol_whitelist",
            "file",
            "-format_whitelist",
            CONTAINERS,
            "-i",
            f"file:{path}",
            "-map",
            "0:a:0",
        ]
        command = [
            program,
            "-nostdin",
            "-v",
            "error",
            *inward,
            "-ac",
            "1",
            "-ar",
            str(rate),
            "-f",
            "s16le",
            "-",
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        assert process.stdout is not None
        left = longest * rate
        try:
            while block := process.stdout.read(2 * BLOCK):
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
