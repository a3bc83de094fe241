"""`dataset.corrections`: which transcripts a table replaces, and what is said of one that does not fit."""

import logging

import pytest

from asr_exp.core.errors import UserError
from asr_exp.data.corpora.base import Corpus, FileAudio, Utterance
from asr_exp.data.corrections import read_corrections


def corpus() -> Corpus:
    rows = {"train": {"a": "one", "b": "two"}, "dev": {"a": "one", "c": "three"}}
    return Corpus(
        {
            split: [Utterance(id, FileAudio(f"{id}.wav"), text, None) for id, text in of.items()]
            for split, of in rows.items()
        }
    )


def texts(corrected: Corpus) -> dict[str, list[str]]:
    return {split: list(rows.texts()) for split, rows in corrected.splits.items()}


def test_a_row_replaces_the_transcript_of_its_split_or_of_all(tmp_path, caplog):
    path = tmp_path / "suspects.csv"
    path.write_text(
        'id,file,transcript,recognised,score,split\na,a.wav,"eins, ""zwei""",x,3.1,train\nc,c.wav,drei,x,2,\n'
    )
    with caplog.at_level(logging.INFO, "asr_exp"):
        corrected = read_corrections(str(path)).apply(corpus())
    assert texts(corrected) == {"train": ['eins, "zwei"', "two"], "dev": ["one", "drei"]}
    assert "corrects 2 transcripts" in caplog.text
    path.write_text('\ufeff"id";"transcript"\r\n"a";"1"\r\n', encoding="utf-8")  # as a spreadsheet saves it
    assert texts(read_corrections(str(path)).apply(corpus()))["train"] == ["1", "two"]
    path.write_text("transcript,id\n1,a\n")
    assert texts(read_corrections(str(path)).apply(corpus()))["dev"][0] == "1"


def test_the_digest_is_of_what_the_rows_say(tmp_path):
    def digest(text: str) -> str:
        (tmp_path / "c.csv").write_text(text)
        return read_corrections(str(tmp_path / "c.csv")).digest

    one = digest("id,transcript\na,x\nb,y\n")
    assert one == digest("id,note,transcript\nb,new,y\na,,x\n") != digest("id,transcript\na,x\nb,z\n")


def test_ids_that_are_not_there_are_said(tmp_path, caplog):
    path = tmp_path / "c.csv"
    path.write_text("id,transcript\na,x\nq,y\nr,y\n")
    read_corrections(str(path)).apply(corpus())
    assert "2 of 3 ids name no utterance, the first 'q'" in caplog.text
    path.write_text("id,transcript\nq,x\n")
    with pytest.raises(UserError, match="no utterance has the id 'q'"):
        read_corrections(str(path)).apply(corpus())
    assert texts(read_corrections(str(path)).apply(corpus(), only="train")) == texts(corpus())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("id,transcript\na,x\na,y\n", "row 3: 'a' has another transcript in a row above"),
        ("id,transcript,split\na,x,valid\n", "its split 'valid' is not one of train, dev, test"),
        ("id,text\na,x\n", "row 2 has no transcript"),
        ("", "is empty"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(tmp_path, content, expected):
    (tmp_path / "c.csv").write_text(content)
    with pytest.raises(UserError, match=expected):
        read_corrections(str(tmp_path / "c.csv"))


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="dataset.corrections=none.csv is not a file"):
        read_corrections("none.csv")
