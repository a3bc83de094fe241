"""The demo's corpus: what may be said, by whom, and that it is made once."""

import multiprocessing
import re
import sys

import numpy as np
import pytest
import soundfile
from corpus_section import read

from asr_exp.core.errors import UserError
from asr_exp.data import espeak
from asr_exp.data.corpora.synthetic import demo


@pytest.fixture
def small(monkeypatch):
    pytest.importorskip("espeakng_loader", reason="the demo extra is not installed")
    monkeypatch.setattr(demo, "SIZES", {"train": 12, "dev": 3, "test": 4})


def test_sentences_are_short_and_words_few():
    sentences = demo.sentences()
    assert len(sentences) == len(set(sentences)) and all(
        2 <= len(s.split()) <= demo.MAX_WORDS for s in sentences
    )
    assert len({word for s in sentences for word in s.split()}) < 60
    assert re.fullmatch("[a-z ]+", "".join(sentences))


def test_splits_share_no_sentence_no_voice_and_no_variant():
    lines = demo.splits(demo.SIZES, 0)
    assert {split: len(rows) for split, rows in lines.items()} == demo.SIZES
    for what in (lambda line: line.text, lambda line: line.voice, lambda line: line.voice.split("+")[1]):
        seen = [{what(line) for line in rows} for rows in lines.values()]
        assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    assert {w for line in lines["test"] for w in line.text.split()} <= {
        w for line in lines["train"] for w in line.text.split()
    }
    assert demo.splits(demo.SIZES, 0) == lines != demo.splits(demo.SIZES, 1)


def test_it_is_spoken_once_and_the_same_by_every_process(small, tmp_path):
    corpus = read("demo", tmp_path / "here")
    first = corpus.splits["test"][0]
    assert (first.id, {s: len(r) for s, r in corpus.splits.items()}) == (
        "test-00000",
        {"train": 12, "dev": 3, "test": 4},
    )
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "here").rglob("*.wav")}
    for row in corpus.splits["train"]:
        samples, rate = soundfile.read(row.audio.path)
        assert rate == 22050 and 0.3 < len(samples) / rate < 6 and np.abs(samples).max() > 0.05
    assert read("demo", tmp_path / "here").splits == corpus.splits
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "here").rglob("*.wav")} == times
    # New processes: espeak-ng's noises go on from what a process has had it say before.
    with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=1) as pool:
        found = pool.map(
            _read_there,
            [(str(tmp_path / place), demo.SIZES) for place in ("there", "there", "elsewhere")],
            chunksize=1,
        )
    assert all(ids == [u.id for u in corpus.splits["train"]] for ids in found)
    there, elsewhere = (
        {p.name: p.read_bytes() for p in (tmp_path / place).rglob("*.wav")}
        for place in ("there", "elsewhere")
    )
    assert len(there) == 19 and there == elsewhere
    assert not list((tmp_path / "there").rglob("*.new"))


def _read_there(job):
    from pathlib import Path

    demo.SIZES = job[1]
    return [u.id for u in read("demo", Path(job[0])).splits["train"]]


def test_what_was_left_half_made_is_made_again(small, tmp_path):
    made = next(p for p in (read("demo", tmp_path) and tmp_path / "demo").iterdir() if p.is_dir())
    made.rename(made.with_suffix(".new"))
    (made.with_suffix(".new") / "train.csv").unlink()
    assert len(read("demo", tmp_path).splits["train"]) == 12


def test_the_synthesiser_refuses_what_espeak_passes_over():
    pytest.importorskip("espeakng_loader", reason="the demo extra is not installed")
    synthesiser = espeak.Synthesiser()
    for voice in ("en-us+nobody", "xx-nowhere", "en-us+"):
        with pytest.raises(UserError, match="espeak-ng has no voice"):
            synthesiser.say("hello", voice)
    with pytest.raises(ValueError, match="pitch 200"):
        synthesiser.say("hello", "en-us", pitch=200)
    assert set(demo.VOICES["train"]) and all(
        len(synthesiser.say("go", voice)[0]) for voices in demo.VOICES.values() for voice in voices
    )


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch):
    espeak._library.cache_clear()
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match=re.escape('pip install "asr_exp[demo]"')):
        read("demo", tmp_path)
