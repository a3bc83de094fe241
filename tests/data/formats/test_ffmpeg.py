"""What ffmpeg reads, in corpora as in transcribe, and what is said where there is none."""

import logging
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

from asr_exp.core.errors import UserError
from asr_exp.data.audio import decode, read_clip
from asr_exp.data.audio_store import open_store
from asr_exp.data.corpora import FileAudio, Utterance
from asr_exp.data.formats import ffmpeg
from asr_exp.data.formats.ffmpeg import MISSING
from asr_exp.data.recordings import InMemory, read_recording

with_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="there is no ffmpeg on the PATH")
VIDEO = ["-f", "lavfi", "-i", "color=c=black:s=64x64:d=4", "-shortest"]
KINDS = {"m4a": [], "aac": [], "mp4": VIDEO, "mkv": VIDEO}


def convert(source, target, *how):
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", source, *how, target], check=True)
    return target


def by_ffmpeg(path, rate=16000):
    """What ffmpeg itself gives: int16, mono."""
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        path,
        "-map",
        "0:a:0",
        "-ac",
        "1",
        "-ar",
        str(rate),
        "-f",
        "s16le",
        "-",
    ]
    return np.frombuffer(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout, "<i2")


@pytest.fixture
def wav(tmp_path, tone):
    soundfile.write(tmp_path / "a.wav", np.stack([tone(4, 44100), tone(4, 44100, 300.0)], 1), 44100)
    return tmp_path / "a.wav"


@with_ffmpeg
@pytest.mark.parametrize("suffix", KINDS)
def test_a_corpus_of_them_is_decoded_once(tmp_path, cache, wav, suffix, monkeypatch):
    path = convert(wav, tmp_path / f"b.{suffix}", *KINDS[suffix])
    parts = [(None, None), (0.5, 1.25), (3.0, None)]
    rows = [Utterance(str(part), FileAudio(str(path), *part), "") for part in parts]
    want = by_ffmpeg(path)
    runs = []
    run = subprocess.run
    monkeypatch.setattr(ffmpeg.subprocess, "run", lambda *a, **k: runs.append(1) or run(*a, **k))
    for lazy in (True, False):
        store = open_store(rows, cache, lazy=lazy)
        assert not store.reasons and store.lengths.tolist() == [len(want), 12000, len(want) - 48000]
        assert np.array_equal(store[0], want)
        assert np.array_equal(store[1], want[8000:20000]) and np.array_equal(store[2], want[48000:])
        runs_of_decoding = len(runs)
    assert len(runs) == runs_of_decoding <= 2  # to know the length, and to decode
    assert np.array_equal(read_recording(path, 16000), want)
    assert np.array_equal(read_recording(path.read_bytes(), 16000), want)


@with_ffmpeg
def test_lossless_audio_is_that_of_the_wav(tmp_path, wav):
    path = convert(wav, tmp_path / "b.m4a", "-c:a", "alac")
    clip = read_clip(FileAudio(str(path)))
    assert (clip.rate, clip.channels, clip.exact) == (44100, 2, False)
    assert np.array_equal(clip.samples, soundfile.read(wav, dtype="float32")[0])
    part = read_clip(FileAudio(str(path), 1.5, 1.75))
    assert np.array_equal(part.samples, clip.samples[66150:77175])
    assert "outside" in read_clip(FileAudio(str(path), 4.5, 5.0)).reason


@with_ffmpeg
def test_threads_that_want_one_recording_decode_it_once(tmp_path, wav, monkeypatch):
    path = convert(wav, tmp_path / "b.m4a")
    runs = []
    run = subprocess.run
    monkeypatch.setattr(ffmpeg.subprocess, "run", lambda *a, **k: runs.append(1) or run(*a, **k))
    audios = [FileAudio(str(path), i / 20, i / 20 + 0.5) for i in range(60)]
    with ThreadPoolExecutor(8) as pool:
        clips = list(pool.map(lambda audio: decode(audio, 16000), audios))
    want = by_ffmpeg(path)
    assert sum(runs) == 2  # one of them is by_ffmpeg's
    for i, clip in enumerate(clips):
        assert np.array_equal(clip.samples, want[800 * i : 800 * i + 8000])


@with_ffmpeg
def test_a_file_that_is_cut_is_told(tmp_path, wav):
    whole = convert(wav, tmp_path / "b.m4a", "-movflags", "+faststart").read_bytes()
    for name, data in (("cut.m4a", whole[: len(whole) * 2 // 3]), ("no-index.mp4", whole[-5000:])):
        (tmp_path / name).write_bytes(data)
        reason = read_clip(FileAudio(str(tmp_path / name))).reason
        assert reason.startswith(("truncated", "unreadable: neither libsndfile nor ffmpeg"))
        with pytest.raises(UserError, match=name):
            read_recording(tmp_path / name, 16000)


@with_ffmpeg
def test_no_more_is_decoded_than_is_taken(tmp_path, wav):
    path = convert(wav, tmp_path / "b.m4a")
    clip = read_clip(InMemory(path.read_bytes()), True, 16000, longest=1)
    assert clip.seconds == 2 and clip.reason.startswith("more than 1 s long")
    assert decode(FileAudio(str(path)), 16000).seconds == pytest.approx(4, abs=0.1)
    with pytest.raises(UserError, match="longer than 2 s"):
        read_recording(path, 16000, longest=2)


M4A = b"\0\0\0\x1cftypM4A \0\0\2\0M4A isomiso2" + bytes(500)


def test_without_ffmpeg_a_sentence_says_what_to_install(tmp_path, cache, wav, monkeypatch):
    (tmp_path / "b.m4a").write_bytes(M4A)
    monkeypatch.setenv("PATH", str(tmp_path))
    rows = [Utterance(name, FileAudio(str(tmp_path / name)), "") for name in ("a.wav", "b.m4a")]
    for lazy in (True, False):
        store = open_store(rows, cache, lazy=lazy)
        assert store.lengths.tolist() == [64000, 0] and store.reasons == {1: f"unreadable: {MISSING}"}
    with pytest.raises(UserError, match=r"b.m4a: .* no ffmpeg on the PATH, .* install ffmpeg\.$"):
        read_recording(tmp_path / "b.m4a", 16000)


@with_ffmpeg
def test_what_was_left_out_without_ffmpeg_is_read_once_it_is_there(tmp_path, cache, wav, monkeypatch):
    path = convert(wav, tmp_path / "b.m4a")
    rows = [Utterance("b", FileAudio(str(path)), "")]
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert open_store(rows, cache).lengths.tolist() == [0]
    for lazy in (True, False):
        store = open_store(rows, cache, lazy=lazy)
        assert np.array_equal(store[0], by_ffmpeg(path)) and not store.reasons


def test_a_run_says_so_at_its_start(tmp_path, cache, wav, monkeypatch, caplog):
    from asr_exp.data.corpora.base import Corpus
    from asr_exp.data.filtering import LengthLimits
    from asr_exp.data.prepare import AudioSettings, prepare_split
    from asr_exp.data.tokenizer import Tokenizer
    from asr_exp.data.utterances import Utterances

    monkeypatch.setenv("PATH", str(tmp_path))
    rows = [Utterance("a.wav", FileAudio(str(wav)), "ab")]
    for name in ("b.m4a", "c.mp4"):
        (tmp_path / name).write_bytes(M4A)
        rows.append(Utterance(name, FileAudio(str(tmp_path / name)), "ab"))
    corpus = Corpus({"train": Utterances(rows)}, {"train": []})
    tokenizer = Tokenizer.build(["ab"], "character")
    limits = LengthLimits(0.1, 20, 20, None, lambda samples: samples // 320)
    with caplog.at_level(logging.WARNING):
        split = prepare_split("train", corpus, tokenizer, limits, AudioSettings(cache, 16000))
    assert len(split) == 1 and [row.id for row in split.rejected] == ["b.m4a", "c.mp4"]
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{tmp_path}/b.m4a (and 1 others of dataset.train) is left out: ")
    assert "install ffmpeg" in record.getMessage()
