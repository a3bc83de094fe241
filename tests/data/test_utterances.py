"""Utterances in columns are the utterances that were put in, and cost little besides their text."""

import random
import tracemalloc

import numpy as np
import pytest

from asr_exp.data.columns import PackedStrings
from asr_exp.data.corpora.base import Corpus, FileAudio, TableAudio, Utterance
from asr_exp.data.utterances import Utterances

ODD = ["", "a", "größer", "今天", "𠮷", "a\0b", "\n", " ", "\udcff", "i\u0307", "x" * 1000]


class Table:
    """Stands for a `datasets.Dataset`."""


def some(count=300, seed=0):
    draw, tables = random.Random(seed), [Table(), Table()]

    def audio():
        span = draw.choice([(None, None), (0.0, None), (0.25, 1.5), (None, 2.0)])
        if draw.random() < 0.3:
            return TableAudio(draw.choice(tables), draw.randrange(9), draw.choice(["audio", "speech"]), *span)
        return FileAudio(draw.choice(["", "/", "a/", "/b//c/", "ü/"]) + draw.choice(ODD[1:]) + ".wav", *span)

    return [
        Utterance(draw.choice(ODD) + str(i), audio(), draw.choice(ODD), draw.choice(["s1", "s2", "", None]))
        for i in range(count)
    ]


def test_they_come_out_as_they_went_in():
    rows = some()
    columns = Utterances(rows)
    assert list(columns) == rows and columns == rows and len(columns) == len(rows) and columns[-1] == rows[-1]
    assert list(columns.ids()) == [u.id for u in rows] and list(columns.texts()) == [u.text for u in rows]
    assert list(columns.speakers()) == [u.speaker for u in rows]
    assert [columns.audio(i) for i in range(len(rows))] == [u.audio for u in rows]
    with pytest.raises(IndexError):
        columns[len(rows)]
    assert columns != rows[:-1] and columns != [*rows[:-1], rows[0]] and not Utterances()


def test_a_selection_of_a_selection_and_other_texts():
    rows, draw = some(), np.random.default_rng(0)
    columns, expected = Utterances(rows), list(rows)
    for step in range(6):
        if step % 3 == 2:
            texts = [f"{step} {ODD[i % len(ODD)]}" for i in range(len(expected))]
            columns = columns.with_texts(PackedStrings(texts))
            expected = [
                Utterance(u.id, u.audio, text, u.speaker) for u, text in zip(expected, texts, strict=True)
            ]
        chosen = draw.permutation(len(expected))[: len(expected) - 7]
        columns, expected = columns.take(chosen), [expected[i] for i in chosen]
        assert columns == expected and list(columns.texts()) == [u.text for u in expected]
    assert (
        columns[5:90:3] == expected[5:90:3] and columns[:None] == expected and columns[-4:] == expected[-4:]
    )
    assert columns.audio(3) == expected[3].audio and list(columns.ids()) == [u.id for u in expected]


def test_joined_they_follow_each_other():
    a, b = some(20), some(30, seed=1)
    assert Utterances.join([Utterances(a), Utterances(b)[3:]]) == a + b[3:]
    assert Utterances.join([]) == []


def test_a_readers_list_is_put_into_columns():
    rows = some(10)
    assert (
        isinstance(Corpus({"train": rows}).splits["train"], Utterances)
        and Corpus({"train": rows}).splits["train"] == rows
    )


def test_a_plugins_own_kind_of_audio_is_kept():
    class Tape:
        start = end = None

        def identity(self):
            return ("tape",)

    tape = Tape()
    assert Utterances([Utterance("a", tape, "x")])[0].audio is tape


def test_strings_are_those_put_in():
    strings = PackedStrings(ODD)
    strings.append("end")
    assert list(strings) == [*ODD, "end"] and strings[2:4] == ODD[2:4] and len(strings) == len(ODD) + 1


def test_an_utterance_costs_its_text_and_little_more():
    def rows():
        for i in range(20_000):
            chapter = f"{i // 400}-{i // 50}"
            yield Utterance(
                f"{chapter}-{i:04d}",
                FileAudio(f"/data/LibriSpeech/train/{chapter.replace('-', '/')}/{chapter}-{i:04d}.flac"),
                f"{i:04d} " * 20,
                str(i // 400),
            )

    tracemalloc.start()
    columns = Utterances(rows())
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    text = sum(len(u.id) + len(u.text) for u in columns) / len(columns)
    assert used / len(columns) < text + 100
