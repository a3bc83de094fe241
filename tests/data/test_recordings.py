"""Recordings of every kind come out as the audio store has them, and what is no recording is told of in a
sentence.
"""

import io
import shutil
import sys

import numpy as np
import pytest
import soundfile

from asr_exp.core.errors import UserError
from asr_exp.data import recordings
from asr_exp.data.audio import decode, read_clip
from asr_exp.data.corpora import FileAudio
from asr_exp.data.recordings import Spool, named_files, read_recording, seconds_of

KINDS = [
    ("wav", "PCM_16", 16000, 1),
    ("wav", "PCM_24", 44100, 2),
    ("wav", "FLOAT", 8000, 1),
    ("flac", "PCM_16", 48000, 2),
    ("wav", "ULAW", 8000, 1),
    ("ogg", "VORBIS", 22050, 1),
    ("mp3", "MPEG_LAYER_III", 44100, 2),
]


def write(path, subtype, rate, channels, samples) -> None:
    soundfile.write(path, np.stack([samples, 0.5 * samples], 1)[:, :channels], rate, subtype=subtype)


@pytest.mark.parametrize(("ending", "subtype", "rate", "channels"), KINDS)
def test_a_recording_is_what_training_hears(tmp_path, tone, monkeypatch, ending, subtype, rate, channels):
    """From its path, from its bytes, and block by block through a temporary file."""
    path = tmp_path / f"a.{ending}"
    write(path, subtype, rate, channels, tone(7.77, rate))
    want = decode(FileAudio(str(path)), 16000).samples
    assert np.array_equal(read_recording(path, 16000), want) and np.array_equal(
        read_recording(path.read_bytes(), 16000), want
    )
    monkeypatch.setattr(recordings, "IN_MEMORY", 1.0)
    monkeypatch.setattr(recordings, "READ_SAMPLES", 10_000)
    for source in (str(path), path.read_bytes()):
        spool = read_recording(source, 16000)
        assert isinstance(spool, Spool) and len(spool) == len(want)
        assert np.abs(spool[:].astype(int) - want).max() <= 1
        assert (
            np.array_equal(spool[5000:20000], spool[:][5000:20000])
            and len(spool[len(want) : len(want) + 5]) == 0
        )
    assert seconds_of(str(path)) == pytest.approx(7.77, abs=0.06)


def test_real_corpora(shared_data):
    mp3 = next(shared_data("cv-corpus-6.1-2020-12-11", "tr", "clips").glob("*.mp3"))
    for path in (shared_data("TIMIT", "TRAIN", "DR1", "FVMH0", "SA1.WAV"), mp3):
        assert np.array_equal(read_recording(path, 16000), decode(FileAudio(str(path)), 16000).samples)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"no audio at all" * 99), "libsndfile"),
        (lambda path: soundfile.write(path, np.zeros(0), 16000), "empty"),
        (
            lambda path: (
                soundfile.write(path, np.zeros(16000), 16000),
                path.write_bytes(path.read_bytes()[:9000]),
            ),
            "truncated",
        ),
        (lambda path: soundfile.write(path, np.full(16000, np.nan), 16000, subtype="FLOAT"), "not finite"),
        (lambda path: soundfile.write(path, np.zeros(16000 * 31), 16000), "longer than 30 s"),
    ],
    ids=["missing", "of no bytes", "no audio", "empty", "truncated", "not finite", "too long"],
)
def test_what_cannot_be_used(tmp_path, monkeypatch, make, told):
    monkeypatch.setenv("PATH", "")
    path = tmp_path / "bad.wav"
    make(path)
    with pytest.raises(UserError, match=f"(?s)bad.wav: .*({told})") as caught:
        read_recording(path, 16000, longest=30)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    if path.exists():
        assert not read_clip(FileAudio(str(path))).reason.endswith(".")  # a sentence is made of it
        with pytest.raises(UserError, match=f"upload: .*({told})"):
            read_recording(path.read_bytes(), 16000, "upload", longest=30)


def test_a_long_file_that_breaks_off(tmp_path, tone, monkeypatch):
    monkeypatch.setattr(recordings, "IN_MEMORY", 1.0)
    monkeypatch.setattr(recordings, "READ_SAMPLES", 10_000)
    soundfile.write(tmp_path / "a.flac", tone(20), 16000)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    with pytest.raises(UserError, match="damaged|truncated"):
        read_recording(bytes(data), 16000)
    soundfile.write(tmp_path / "nan.wav", np.append(tone(20), np.nan), 16000, subtype="FLOAT")
    with pytest.raises(UserError, match="not finite"):
        read_recording(tmp_path / "nan.wav", 16000)


def test_standard_input(tmp_path, tone, monkeypatch):
    soundfile.write(tmp_path / "a.wav", tone(1, 8000), 8000)
    stdin = io.TextIOWrapper(io.BytesIO((tmp_path / "a.wav").read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert np.array_equal(read_recording("-", 16000), read_recording(tmp_path / "a.wav", 16000))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"nothing")))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="standard input: "):
        read_recording("-", 16000)


def test_files_folders_and_globs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.FLAC", "b/1.wav", "b/c/3.mp3", "b/notes.txt", "a [x].wav", "d/4.wav", "empty/readme"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found, complaints = named_files(["d/*.wav", "b", "a [x].wav", "gone.wav", "-", "b/1.wav", "empty", "x*"])
    assert found == ["d/4.wav", "b/1.wav", "b/2.FLAC", "b/c/3.mp3", "a [x].wav", "gone.wav", "-"]
    assert complaints == ["empty: no recording in this folder", "x*: no file fits this pattern"]
    assert named_files(["b/**/*.mp3"])[0] == ["b/c/3.mp3"]


def ffmpeg() -> str | None:
    if found := shutil.which("ffmpeg"):
        return found
    try:
        import imageio_ffmpeg
    except ImportError:
        return None
    return imageio_ffmpeg.get_ffmpeg_exe()


def test_what_only_ffmpeg_reads(tmp_path, tone, monkeypatch):
    import os
    import subprocess

    if (program := ffmpeg()) is None:
        pytest.skip("there is no ffmpeg")
    (tmp_path / "bin").mkdir()
    os.symlink(program, tmp_path / "bin" / "ffmpeg")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    soundfile.write(tmp_path / "a.wav", tone(4, 44100), 44100)
    subprocess.run(
        [program, "-v", "error", "-i", tmp_path / "a.wav", "-c:a", "aac", tmp_path / "a.m4a"], check=True
    )
    want = read_recording(tmp_path / "a.wav", 16000).astype(float)
    for source in (tmp_path / "a.m4a", (tmp_path / "a.m4a").read_bytes()):
        got = read_recording(source, 16000).astype(float)
        assert abs(len(got) - len(want)) < 2000
        n = min(len(got), len(want))
        assert np.corrcoef(got[2000 : n - 2000], want[2000 : n - 2000])[0, 1] > 0.9
    with pytest.raises(UserError, match="longer than 2 s"):
        read_recording(tmp_path / "a.m4a", 16000, longest=2)
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:4,\n{tmp_path}/a.wav\n#EXT-X-ENDLIST\n")
    with pytest.raises(UserError, match="neither libsndfile nor ffmpeg"):
        read_recording((tmp_path / "list.m3u8").read_bytes(), 16000)
    monkeypatch.setattr(recordings, "IN_MEMORY", 1.0)
    assert np.array_equal(read_recording(tmp_path / "a.m4a", 16000)[:], got.astype(np.int16))
