"""Manifests: the four formats, the splits, what is rejected and what is an error."""

import csv
import json
import re

import pytest
from corpus_section import read, shared

from asr_exp.core.errors import UserError

ROWS = [{"file": f"clips/{i:02d}.wav", "text": f'He said, "{i}"\nand left'} for i in range(20)]


def write(path, rows, delimiter=",", **options):
    with path.open("w", newline="", **{"encoding": "utf-8", **options}) as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def everything(corpus):
    return sorted((u.id, u.text) for rows in corpus.splits.values() for u in rows)


def same(path):
    return {"train": path, "dev": path, "test": path}


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_format_gives_the_same_rows(tmp_path, ending, encoding):
    path = tmp_path / f"all.{ending}"
    if ending == "csv":
        write(path, ROWS, encoding=encoding)
    else:
        path.write_text(
            json.dumps(ROWS) if ending == "json" else "\n".join(map(json.dumps, ROWS)), encoding=encoding
        )
    rows = read(ending, tmp_path, **same(str(path))).splits["train"]
    assert [(u.id, u.text, u.audio.path) for u in rows] == [
        (r["file"], r["text"], str(tmp_path / r["file"])) for r in ROWS
    ]


def test_json_under_a_key_json_lines_under_the_wrong_ending_and_other_delimiters(tmp_path):
    (tmp_path / "data.json").write_text(json.dumps({"version": 1, "data": ROWS}))
    (tmp_path / "lines.json").write_text("\n".join(map(json.dumps, ROWS)))
    semicolons = write(tmp_path / "data.txt", ROWS, delimiter=";")
    wanted = read("json", tmp_path, **same(str(tmp_path / "data.json"))).splits["train"]
    assert len(wanted) == 20
    assert read("json", tmp_path, **same(str(tmp_path / "lines.json"))).splits["train"] == wanted
    assert read("csv", tmp_path, delimiter=";", **same(semicolons)).splits["train"] == wanted


def test_tab_separated_with_stray_quotes_crlf_and_quoted_cells(tmp_path):
    (tmp_path / "a.tsv").write_bytes(
        b'file\ttext\r\na.wav\t"Stray, he said\r\n"b.wav"\t"all ""of"" it"\r\nc.wav\tend"\r\n'
    )
    rows = read("tsv", tmp_path, **same(str(tmp_path / "a.tsv"))).splits["train"]
    assert [(u.id, u.text) for u in rows] == [
        ("a.wav", '"Stray, he said'),
        ("b.wav", 'all "of" it'),
        ("c.wav", 'end"'),
    ]


def test_columns_segments_speakers_and_repeats(tmp_path):
    rows = [
        {"wav": "/a/b.flac", "words": "x", "who": 7, "from": 1.5, "to": 2},
        {"wav": "/a/b.flac", "words": "y", "who": None, "from": "2", "to": ""},
        {"wav": "~/c.flac", "words": 3, "who": "", "from": None},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = {
        "columns__file": "wav",
        "columns__text": "words",
        "columns__speaker": "who",
        "columns__start": "from",
        "columns__end": "to",
    }
    first, second, third = read("jsonl", tmp_path, **same(str(tmp_path / "a.jsonl")), **columns).splits["dev"]
    assert (first.id, first.text, first.speaker, first.audio.path, first.audio.start, first.audio.end) == (
        "/a/b.flac",
        "x",
        "7",
        "/a/b.flac",
        1.5,
        2,
    )
    assert (second.id, second.speaker, second.audio.start, second.audio.end) == ("/a/b.flac#2", None, 2, None)
    assert third.text == "3" and "~" not in third.audio.path and third.audio.start is None
    named = read("jsonl", tmp_path, **same(str(tmp_path / "a.jsonl")), **columns, columns__id="words").splits[
        "dev"
    ]
    assert [u.id for u in named] == ["x", "y", "3"]


def test_sample_reads_as_the_csv_module_reads_it(tmp_path):
    manifest = shared("telephone-8k", "it.csv")
    rows = read("csv", tmp_path, **same(str(manifest))).splits["test"]
    with manifest.open(encoding="utf-8", newline="") as file:
        assert [{"file": u.id, "text": u.text} for u in rows] == list(csv.DictReader(file))


# ------------------------------------------------------------------------------------------------------------
# splits


def test_one_manifest_is_split_by_speaker_where_there_are_enough(tmp_path, caplog):
    rows = [{"file": f"{i}.wav", "text": "a", "speaker": f"s{i % 20}"} for i in range(100)]
    corpus = read("csv", tmp_path, train=write(tmp_path / "all.csv", rows))
    speakers = {split: {u.speaker for u in r} for split, r in corpus.splits.items()}
    assert {split: len(s) for split, s in speakers.items()} == {"train": 16, "dev": 2, "test": 2}
    assert len(set.union(*speakers.values())) == 20
    assert corpus.subsets == {
        "train": ["all.csv[less dev, test]"],
        "dev": ["all.csv[2 of 20 speakers, seed 0]"],
        "test": ["all.csv[2 of 20 speakers, seed 0]"],
    }
    assert "There is no dev split: it is 2 of the 20 speakers of train" in caplog.text
    shuffled = read("csv", tmp_path, train=write(tmp_path / "all.csv", rows[50:] + rows[:50]))
    assert {u.id for u in shuffled.splits["dev"]} == {u.id for u in corpus.splits["dev"]}
    other = read("csv", tmp_path, train=str(tmp_path / "all.csv"), split_seed=1)
    assert {u.id for u in other.splits["dev"]} != {u.id for u in corpus.splits["dev"]}


def test_few_speakers_are_still_dealt_whole(tmp_path):
    rows = [{"file": f"{i}.wav", "text": "a", "speaker": f"s{i % 6}"} for i in range(30)]
    corpus = read("csv", tmp_path, train=write(tmp_path / "six.csv", rows))
    speakers = {split: {u.speaker for u in r} for split, r in corpus.splits.items()}
    assert {split: len(s) for split, s in speakers.items()} == {"train": 4, "dev": 1, "test": 1}
    assert len(set.union(*speakers.values())) == 6


def test_speakers_heard_in_training_are_told_of(tmp_path, caplog):
    anna = {"text": "a", "speaker": "anna"}
    read(
        "csv",
        tmp_path,
        **{
            name: write(tmp_path / f"{name}.csv", [{"file": f"{name}.wav", **anna}])
            for name in ("train", "dev", "test")
        },
    )
    assert "1 of the 1 speakers of test are also in train" in caplog.text


@pytest.mark.parametrize(
    "speaker", [lambda i: "one", lambda i: "", lambda i: "most" if i < 90 else f"s{i % 2}"]
)
def test_one_manifest_is_split_by_utterance_where_speakers_are_few(tmp_path, speaker):
    rows = [{"file": f"{i:03d}.wav", "text": "a", "speaker": speaker(i)} for i in range(100)]
    corpus = read("csv", tmp_path, train=write(tmp_path / "all.csv", rows), dev_fraction=0.2)
    assert {split: len(r) for split, r in corpus.splits.items()} == {"train": 70, "dev": 20, "test": 10}
    assert [i for i, _ in everything(corpus)] == [row["file"] for row in rows]
    assert all([u.id for u in r] == sorted(u.id for u in r) for r in corpus.splits.values())


def test_dev_alone_is_carved_out_of_train(tmp_path):
    train, test = write(tmp_path / "train.csv", ROWS), write(tmp_path / "test.csv", ROWS[:3])
    corpus = read("csv", tmp_path, train=train, test=test)
    assert {split: len(r) for split, r in corpus.splits.items()} == {"train": 18, "dev": 2, "test": 3}
    assert corpus.subsets["test"] == ["test.csv"]


def test_several_manifests_make_a_split(tmp_path):
    one, two = write(tmp_path / "1.csv", ROWS[:5]), write(tmp_path / "2.csv", ROWS[4:])
    corpus = read("csv", tmp_path, train=[one, two], dev=one, test=one)
    assert len(corpus.splits["train"]) == 21 and corpus.subsets["train"] == ["1.csv", "2.csv"]


def test_a_split_column_splits_one_manifest(tmp_path):
    rows = [
        {**row, "split": ("train", "train", "Validation", "test", "other")[i % 5]}
        for i, row in enumerate(ROWS)
    ]
    path = write(tmp_path / "all.csv", rows)
    for settings in ({"train": path}, same(path)):
        corpus = read("csv", tmp_path, **settings)
        assert {split: len(r) for split, r in corpus.splits.items()} == {"train": 8, "dev": 4, "test": 4}
        assert (
            len(corpus.rejected["train"]) == 4
            and "'other' is not train, dev or test" in corpus.rejected["train"][0].reason
        )
    assert len(read("csv", tmp_path, train=path, columns__split=None).splits["train"]) == 16
    assert (
        len(
            read("csv", tmp_path, train=path, dev=write(tmp_path / "b.csv", ROWS[:2]), test=path).splits[
                "train"
            ]
        )
        == 20
    )


def test_overlap_between_splits_is_said(tmp_path, caplog):
    path = write(tmp_path / "all.csv", ROWS)
    read("csv", tmp_path, **same(path))
    assert "20 of the 20 utterances of test are also in train" in caplog.text


# ------------------------------------------------------------------------------------------------------------
# broken rows and broken files


def test_broken_rows_are_rejected_with_their_line(tmp_path):
    (tmp_path / "a.csv").write_text(
        "file,text,start,end\na.wav,fine,,\nb.wav\n,no path,,\nc.wav,backwards,2,1\nd.wav,soon,soon,\n\n"
        'e.wav,one, two,3,4\nf.wav,"unclosed,,\ng.wav,"after, it",,\nh.wav,nan,nan,\ni.wav,"two\nlines",0,1\n'
        'j.wav,last,-1,\nk.wav,"open to the end,,\n'
    )
    corpus = read("csv", tmp_path, **same(str(tmp_path / "a.csv")))
    assert [u.text for u in corpus.splits["train"]] == ["fine", "after, it", "two\nlines"]
    reasons = {r.id.split(":")[1]: r.reason for r in corpus.rejected["train"]}
    assert list(reasons) == ["3", "4", "5", "6", "8", "9", "11", "14", "15"]
    for line, words in (
        ("3", "1 fields where the header names 4"),
        ("4", "has no file"),
        ("5", "is not after its start"),
        ("6", "'soon', is not a number"),
        ("8", "5 fields"),
        ("9", "not valid CSV"),
        ("11", "'nan', is not"),
        ("14", "'-1', is not"),
        ("15", "not valid CSV"),
    ):
        assert words in reasons[line] and reasons[line].startswith(f"row {line}: ")
    assert [r.file for r in corpus.rejected["train"]][3] == "d.wav"


def test_broken_json_rows_are_rejected(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"file": "a", "text": "x"}\n{"file": \n[1]\n{"file": "b"}\n{"file": {}, "text": "x"}\n{"file": "c",'
        ' "text": null}\n'
    )
    corpus = read("jsonl", tmp_path, **same(str(tmp_path / "a.jsonl")))
    assert [u.id for u in corpus.splits["test"]] == ["a"]
    assert [r.id for r in corpus.rejected["test"]] == [f"a.jsonl:{i}" for i in range(2, 7)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "nocol.csv",
            b"clip,said\na.wav,hello\n",
            (
                "nocol.csv has no column 'file' and no column 'text'; its columns: clip, said. Name what"
                " holds the audio's path and the transcript: dataset.columns.file=COLUMN"
                " dataset.columns.text=COLUMN."
            ),
        ),
        (
            "notext.csv",
            b"file,said\na.wav,hello\n",
            "notext.csv has no column 'text'; its columns: file, said. .*dataset.columns.text=COLUMN",
        ),
        ("empty.csv", b"", "empty.csv is empty"),
        ("header.csv", b"file,text\n\n", "header.csv has no row of an utterance, only 'file,text'"),
        ("words.csv", b"not a manifest\n", "words.csv has no row of an utterance, only 'not a manifest'"),
        ("semi.csv", b"file;text\na.wav;x\n", "parted by ';': 'dataset.delimiter=\";\"'"),
        ("tab.csv", b"file\ttext\na.wav\tx\n", "parted by '\\\\t': dataset=tsv"),
        ("sound.csv", b"RIFF\x00\x00", "sound.csv is not UTF-8 text; a manifest is CSV"),
        ("empty.json", b" ", "empty.json is empty"),
        ("latin.csv", "file,text\na.wav,\u00e9t\u00e9\n".encode("latin-1"), "latin.csv is not UTF-8"),
        (
            "twice.csv",
            b"file,text,other,other,text\na.wav,a,x,y,b\n",
            "twice.csv has 2 columns 'text'; rename those that are not meant.",
        ),
        ("list.json", b"[]", "list.json has no row of an utterance, only '\\[\\]'"),
        ("half.json", b'[{"file": "a",', "half.json is not valid JSON: line 1"),
        ("text.json", b'"a"', "text.json holds no list of objects"),
        (
            "all.csv",
            b"file,text\n,a\n,b\n",
            (
                "dataset.train=.*all.csv has no utterances.*2 rows cannot be used; the first, all.csv:2: row"
                " 2: it has no file"
            ),
        ),
    ],
)
def test_a_useless_manifest_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(name.split(".")[1], tmp_path, **same(str(tmp_path / name)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "dataset=csv needs a manifest: dataset.train=FILE"),
        ({"train": "no/such.csv"}, "dataset.train=no/such.csv is not a file"),
        ({"train": "TRAIN", "delimiter": "::"}, "dataset.delimiter='::' is not one character"),
        ({"train": "TRAIN", "dev_fraction": 0}, "dataset.dev_fraction=0"),
        ({"train": "TRAIN", "columns__id": "key"}, "has no column 'key'.*dataset.columns.id=COLUMN"),
    ],
)
def test_settings_that_cannot_be(tmp_path, settings, message):
    path = write(tmp_path / "a.csv", ROWS)
    settings = {k: path if v == "TRAIN" else v for k, v in settings.items()}
    with pytest.raises(UserError, match=message):
        read("csv", tmp_path, **settings)


def test_too_few_rows_to_split(tmp_path):
    with pytest.raises(
        UserError, match="too few to carve dev and test out of it. Give dataset.dev=... and dataset.test=..."
    ):
        read("csv", tmp_path, train=write(tmp_path / "a.csv", ROWS[:2]))


def test_too_few_rows_that_can_be_used(tmp_path):
    (tmp_path / "a.csv").write_text("file,text\na.wav,a\nb.wav,b\n,c\n")
    with pytest.raises(
        UserError,
        match=(
            "2 utterances, too few to carve dev and test out of it. 1 row cannot be used; the first, a.csv:4"
        ),
    ):
        read("csv", tmp_path, train=str(tmp_path / "a.csv"))


def test_no_machine_path_is_in_ids_or_subsets(tmp_path):
    corpus = read("csv", tmp_path, train=write(tmp_path / "a.csv", ROWS))
    told = json.dumps([corpus.subsets, everything(corpus)])
    assert not re.search(re.escape(str(tmp_path)), told)
