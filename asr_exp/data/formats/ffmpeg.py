"""Decode with ffmpeg what libsndfile does not read: M4A, AAC, WebM, video."""

import hashlib
import math
import os
import shutil
import subprocess
import tempfile
import threading
from collections import OrderedDict
from typing import Any, BinaryIO

import soundfile

from asr_exp.data.formats.reader import SeekableReader
from asr_exp.data.formats.sound import Sound, Source

# Containers that ffmpeg may open. Not playlists: an uploaded one could name other files.
CONTAINERS = "aac,ac3,aiff,amr,asf,avi,caf,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,wav,webm"
FFMPEG = "FFMPEG"  # the format of what ffmpeg decoded
KEPT = 8  # decoded recordings that are kept, for the other segments of each
MISSING = (
    "libsndfile finds no audio that it can read in it, and there is no ffmpeg on the PATH, which reads more"
    " (M4A, AAC, WebM, video); install ffmpeg"
)
UNREADABLE = "neither libsndfile nor ffmpeg finds audio that they can read in it"
# What ffmpeg says of a file that is shorter than its header says.
_CUT = ("partial file", "File ended prematurely", "Truncat")


class FFmpegError(RuntimeError):
    """A recording cannot be decoded; the message says why."""


class _Decoded:
    """A recording in a temporary file, as WAV. Any number of threads may read it."""

    def __init__(self, path: str, rate: int | None, longest: float):
        program = shutil.which("ffmpeg")
        if program is None:
            raise FFmpegError(MISSING)
        self.file = tempfile.TemporaryFile(prefix="asr_exp-")  # noqa: SIM115
        source = ["-protocol_whitelist", "file", "-format_whitelist", CONTAINERS, "-i", f"file:{path}"]
        how = [] if rate is None else ["-ac", "1", "-ar", str(rate)]
        how += [] if math.isinf(longest) else ["-t", f"{longest + 1:g}"]
        target = ["-map", "0:a:0", *how, "-c:a", "pcm_s16le", "-bitexact", "-f", "wav", "pipe:1"]
        command = [program, "-nostdin", "-v", "error", *source, *target]
        result = subprocess.run(command, stdout=self.file, stderr=subprocess.PIPE)
        if result.returncode or not self.file.seek(0, os.SEEK_END):
            raise FFmpegError(UNREADABLE)
        said = result.stderr.decode(errors="replace")
        self.is_cut = any(words in said for words in _CUT)
        with soundfile.SoundFile(self.open()) as file:
            is_whole = file.frames <= longest * file.samplerate
        self.longest = math.inf if is_whole else longest

    def open(self) -> BinaryIO:
        return _Reader(self.file)  # type: ignore[return-value]


class _Reader(SeekableReader):
    """A file with a place of its own in a file that others read too."""

    def __init__(self, file: Any):
        super().__init__(os.fstat(file.fileno()).st_size)
        self._file = file

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        count = os.preadv(self._file.fileno(), [buffer], self._at)
        self._at += count
        return count


_kept: OrderedDict[tuple, _Decoded] = OrderedDict()
_lock = threading.Lock()
_busy: dict[tuple, threading.Lock] = {}


def open_with_ffmpeg(source: Source, rate: int | None, longest: float) -> Sound:
    """Decode the first audio stream of a file with ffmpeg.

    Args:
        source: of the recording.
        rate: samples a second, of one channel; None: rate and channels of the file.
        longest: seconds; of a longer recording one second more than that is decoded.

    Raises:
        FFmpegError: there is no ffmpeg, or it finds no audio.
        OSError: the file cannot be opened.
    """
    opened = source.open()
    if isinstance(opened, str):
        stat = os.stat(opened)
        key: tuple = (opened, stat.st_size, stat.st_mtime_ns, rate)
        decoded = _decoded(key, opened, longest)
    else:
        with opened, tempfile.NamedTemporaryFile(prefix="asr_exp-") as copy:
            data = opened.read()
            copy.write(data)
            copy.flush()
            key = (hashlib.blake2b(data, digest_size=16).digest(), rate)
            decoded = _decoded(key, copy.name, longest)
    sound = Sound(soundfile.SoundFile(decoded.open()), decoded.open())
    sound.format, sound.is_cut = FFMPEG, decoded.is_cut
    return sound


def _decoded(key: tuple, path: str, longest: float) -> _Decoded:
    """The recording out of those that are kept; of several threads that want it, one decodes it."""
    with _lock:
        busy = _busy.setdefault(key, threading.Lock())
    with busy:
        with _lock:
            if key in _kept and _kept[key].longest >= longest:
                _kept.move_to_end(key)
                return _kept[key]
        try:
            decoded = _Decoded(path, key[-1], longest)
        finally:
            with _lock:
                _busy.pop(key, None)
        with _lock:
            _kept[key] = decoded
            while len(_kept) > KEPT:
                _kept.popitem(last=False)
        return decoded
