"""Manifests as others write them: NeMo's and others' columns, durations, what JSON and pandas put in a cell,
and rows and files that are hostile.
"""

import json
import math
import os
import re
import socket

import numpy as np
import pytest
import soundfile
from corpus_section import read, section
from test_manifest import same

from asr_exp.core.errors import UserError
from asr_exp.data.audio import read_clip
from asr_exp.data.audio_store import open_store
from asr_exp.data.corpora import cells
from asr_exp.data.corpora.base import read_corpus
from asr_exp.data.utterances import FileAudio

RATE = 8000


def lines(folder, *rows, name="a.jsonl"):
    """A manifest of JSON lines; a str is a line as it is."""
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(texts), encoding="utf-8", errors="surrogateescape")
    return same(str(folder / name))


def rejected(corpus):
    return {int(row.id.split(":")[1]): row.reason.partition(": ")[2] for row in corpus.rejected["train"]}


@pytest.fixture
def recording(tmp_path):
    """Four seconds and a bit, each sample its own number: a segment tells where it was cut."""
    soundfile.write(tmp_path / "a.wav", np.arange(4 * RATE + 12, dtype=np.int16), RATE)
    return tmp_path


def cut(folder, row, **settings):
    """First sample and number of samples of the segment of a row, or why there is none."""
    corpus = read("jsonl", folder, **lines(folder, row), **settings)
    clip = read_clip(corpus.splits["train"][0].audio)
    return clip.reason or (round(32768 * float(clip.samples[0, 0])), clip.frames)


# ------------------------------------------------------------------------------------------------------------
# columns and durations


def test_a_manifest_of_nemo_gives_its_pieces(recording):
    nemo = {"audio_filepath": "a.wav", "text": "x"}
    assert cut(recording, {**nemo, "offset": 1.5, "duration": 0.5}) == (12000, 4000)
    assert cut(recording, {**nemo, "duration": 1.25}) == (0, 10000)
    assert cut(recording, {**nemo, "offset": 3, "duration": None}) == (24000, 8012)
    for duration in (4.0, 4.0015, 4.1, 3.95, "4.00"):  # the whole file's, as it was rounded
        assert cut(recording, {**nemo, "duration": duration}) == (0, 32012)
        assert cut(recording, {**nemo, "offset": 0.0, "duration": duration}) == (0, 32012)


def test_an_end_goes_before_a_duration(recording):
    row = {"file": "a.wav", "text": "x", "start": 1, "end": 2, "duration": 4.0}
    assert cut(recording, row) == (8000, 8000)
    assert cut(recording, {**row, "end": None, "duration": 1.5}) == (8000, 12000)
    assert cut(recording, {**row, "end": None}, columns__duration=None) == (8000, 24012)


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ({"duration": 4001.5}, "0-4001.5 s lies outside the file of 4.00 s; are these milliseconds, not sec"),
        ({"duration": 32012}, "are these samples, not seconds?"),
        ({"offset": 1000, "duration": 2000}, "1000-3000 s lies .*; are these milliseconds or samples, not"),
        ({"start": 16000, "end": 24000}, "are these samples, not seconds?"),
        ({"duration": 5}, "0-5 s lies outside the file of 4.00 s$"),
        ({"start": 3, "duration": 4.0}, "3-7 s lies outside the file of 4.00 s$"),
    ],
)
def test_a_segment_outside_the_file_is_told_with_its_unit(recording, times, words):
    reason = cut(recording, {"file": "a.wav", "text": "x", **times})
    assert isinstance(reason, str) and re.search(words, reason)


def test_times_that_cannot_be(recording):
    times = [
        {"duration": 0},
        {"duration": -1},
        {"offset": -0.5, "duration": 1},
        {"duration": "4 s"},
        {"duration": True},
        {"duration": math.inf},
        {"offset": [1]},
    ]
    rows = [{"audio_filepath": "a.wav", "text": "x", **one} for one in ({}, *times)]
    assert list(rejected(read("jsonl", recording, **lines(recording, *rows))).values()) == [
        "its duration is 0 seconds",
        "its duration, -1, is not a number of seconds",
        "its offset, -0.5, is not a number of seconds",
        "its duration, '4 s', is not a number of seconds",
        "its duration, true, is not a number of seconds",
        "its duration, inf, is not a number of seconds",
        "its offset, a list, is not a number of seconds",
    ]


@pytest.mark.parametrize(
    "names",
    [
        ("audio_filepath", "text", "speaker"),
        ("wav", "wrd", "spk_id"),
        ("path", "sentence", "client_id"),
        ("file_name", "transcription", "speaker_id"),
        ("Audio_File", "Transcript", "speaker_name"),
        ("wav_filename", "transcript", None),
    ],
)
def test_usual_columns_are_recognised(tmp_path, names):
    file, text, speaker = names
    row = {"ID": 7, file: "sub/a.wav", text: "said", **({speaker: "anna"} if speaker else {})}
    (utterance,) = read("jsonl", tmp_path, **lines(tmp_path, row)).splits["train"]
    assert (utterance.audio.path, utterance.text) == (str(tmp_path / "sub/a.wav"), "said")
    assert utterance.speaker == ("anna" if speaker else None)
    (tmp_path / "a.csv").write_text(",".join(row) + "\n" + ",".join(map(str, row.values())) + "\n")
    assert read("csv", tmp_path, **same(str(tmp_path / "a.csv"))).splits["train"] == [utterance]


def test_a_manifest_that_was_read_before_keeps_its_speakers(tmp_path):
    row = {"file": "a.wav", "text": "x", "client_id": "anna", "sentence": "y"}
    (utterance,) = read("jsonl", tmp_path, **lines(tmp_path, row)).splits["train"]
    assert (utterance.text, utterance.speaker) == ("x", None)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"file": "a", "sentence": "x", "transcript": "y"}, "columns 'transcript' and 'sentence'; say which"),
        (
            {"audio_filepath": "a", "pred_text": "x"},
            "no column 'text'.*pred_text is what a model has recogni",
        ),
    ],
)
def test_it_is_not_guessed_what_a_transcript_is(tmp_path, row, words):
    with pytest.raises(UserError, match=words):
        read("jsonl", tmp_path, **lines(tmp_path, row))


# ------------------------------------------------------------------------------------------------------------
# cells


@pytest.mark.parametrize(
    ("value", "text"), [("a b", "a b"), (3, "3"), (3.0, "3"), (-2, "-2"), ("null", "null"), ("None", "None")]
)
def test_what_is_a_transcript(value, text):
    assert cells.transcript(value, "text") == text


@pytest.mark.parametrize(
    "value",
    [
        None,
        math.nan,
        True,
        False,
        {},
        ["a"],
        b"a",
        2.5,
        math.inf,
        "nan",
        "NaN",
        "<NA>",
        "a\0",
        "\ud800",
        "\udcff",
    ],
)
def test_what_is_none(value):
    with pytest.raises(ValueError, match="^it"):
        cells.transcript(value, "text")


def test_what_is_a_name():
    given = ("anna", 7, 7.0, 1.5, None, math.nan, "nan", "None", " ", "NULL")
    assert [cells.name(one, "speaker") for one in given] == ["anna", "7", "7", "1.5", *[None] * 6]
    for one in (True, {}, [1], math.inf):
        with pytest.raises(ValueError, match="its speaker is .*, and not a name"):
            cells.name(one, "speaker")


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_one_broken_row_is_rejected_and_the_rest_goes_on(tmp_path, ending):
    good = json.dumps({"file": "a.wav", "text": 'say "[{,]}"'})
    broken = [
        '{"file": "a.wav", "text": "x", "n": %s}' % ("9" * 6000),
        '{"file": "a.wav", "text": "x", "n": %s}' % ("[" * 100_000 + "]" * 100_000),
        '{"file": "a.wav", "text": "x", "text": "y"}',
        '{"file": "a.wav", "text": NaN}',
        '{"file": "a.wav", "text": true}',
        '{"file": "\\u0000.wav", "text": "x"}',
        '{"file": "\\ud800.wav", "text": "x"}',
        "3",
    ]
    rows = [good, *broken, good]
    if ending == "json":
        (tmp_path / "a.json").write_text('{"n": 1, "data": [' + ",\n".join(rows) + "]}")
    else:
        lines(tmp_path, *rows)
    corpus = read(ending, tmp_path, **same(str(tmp_path / f"a.{ending}")))
    assert [u.text for u in corpus.splits["train"]] == ['say "[{,]}"'] * 2
    assert list(rejected(corpus).values()) == [
        "it holds a number of thousands of digits",
        "its brackets are nested too deeply to be read",
        "it names 'text' twice, with two values",
        "it has no text",
        "its text is true, and not a transcript",
        "its file, '\\x00.wav', cannot be the name of a file",
        "its file, '\\ud800.wav', cannot be the name of a file",
        "it is not a JSON object",
    ]
    assert list(rejected(corpus)) == list(range(2, 10))


def test_lines_end_at_line_ends_alone(tmp_path):
    first = '\ufeff{"file": "a.wav", "text": "x\u2028y\x85z"}'
    text = first + '\r\n\r\n \n\ufeff{"file": "b.wav", "text": "x", "text": "x"}'
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8", newline="")
    rows = read("jsonl", tmp_path, **same(str(tmp_path / "a.jsonl"))).splits["train"]
    assert [u.text for u in rows] == ["x\u2028y\x85z", "x"]


# ------------------------------------------------------------------------------------------------------------
# names and files


def test_names_can_be_printed_and_texts_have_no_control_characters(tmp_path):
    row = {"file": "a\x1b[31m\n.wav", "text": "a\x1b\x07b\u00a0c", "speaker": "\ud800\u2028s"}
    corpus = read("jsonl", tmp_path, **lines(tmp_path, row))
    (utterance,) = corpus.splits["train"]
    assert utterance.audio.path == str(tmp_path / "a\x1b[31m\n.wav")
    assert (utterance.id, utterance.text) == ("a\\x1b[31m\\x0a.wav", "ab\u00a0c")
    assert utterance.speaker == "\\ud800\\u2028s"


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_names_of_files_that_are_not_utf_8(tmp_path, ending):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(folder)
    soundfile.write(tmp_path / "a.wav", np.arange(RATE, dtype=np.int16), RATE)
    name = os.fsdecode(b"caf\xe9/\xff.wav")
    os.rename(tmp_path / "a.wav", os.fsencode(tmp_path) + b"/" + os.fsencode(name))
    rows = [{"file": name, "text": "one"}, {"file": name + "x", "text": "two"}]
    if ending == "jsonl":
        lines(tmp_path, *rows)
    else:
        text = "file,text\n" + "".join(f"{row['file']},{row['text']}\n" for row in rows)
        (tmp_path / "a.csv").write_bytes(os.fsencode(text))
    rows = read(ending, tmp_path, **same(str(tmp_path / f"a.{ending}"))).splits["train"]
    assert list(rows.ids()) == ["caf\\xe9/\\xff.wav", "caf\\xe9/\\xff.wavx"]
    store = open_store(rows, tmp_path / "cache", RATE)
    assert (store[0] == np.arange(RATE)).all() and store.reasons == {1: "no such file"}
    str(rows[0].audio).encode()


def test_nothing_but_a_file_is_opened(tmp_path, monkeypatch):
    """A pipe would be waited for for ever."""
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    here = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    here.bind("socket.wav")
    kinds = {"pipe.wav": "named pipe", "folder.wav": "folder", "socket.wav": "socket", "/dev/zero": "device"}
    for name, kind in kinds.items():
        reason = read_clip(FileAudio(name), header_only=True).reason
        assert reason == f"unreadable: it is a {kind}, not a file"
        with pytest.raises(UserError, match=f"dataset.train={name} is a {kind}, and not a file"):
            read("csv", tmp_path, **same(name))


def test_training_has_what_is_not_carved_out_of_it(tmp_path):
    """Read alone too: what is made of the training split's transcripts must not know those of test."""
    path = lines(tmp_path, *({"file": f"{i}.wav", "text": "x"} for i in range(40)))["train"]
    whole = read_corpus(section("jsonl", train=path), tmp_path).splits
    alone = read_corpus(section("jsonl", train=path), tmp_path, "train").splits
    assert list(alone["train"].ids()) == list(whole["train"].ids()) and len(alone["train"]) == 32
    named = read_corpus(section("jsonl", train=path, dev=path, test=path), tmp_path, "train").splits
    assert list(named) == ["train"] and len(named["train"]) == 40
