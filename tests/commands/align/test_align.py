"""`align` as a user meets it: files and splits, what comes out, what is told of the rest. The model knows
next to nothing.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from harness import QUIET, TWO_STEPS, call, make_corpus, run, spoken
from textgrids import intervals


@pytest.fixture
def recordings(tmp_path):
    """recordings(name="Ba, DI ...") -> a folder of clips with their transcripts beside them."""
    rng = np.random.default_rng(3)

    def make(**said: str) -> Path:
        for name, text in said.items():
            soundfile.write(
                tmp_path / f"{name}.wav", spoken(["ba", "di", "go", "lu"], rng), 16000, subtype="PCM_16"
            )
            (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
        return tmp_path

    return make


def test_files_in_every_format(trained, recordings, capsys):
    folder = recordings(one="Ba, DI! 7 go.", two="lu \u2013 me")
    (folder / "none.wav").write_bytes((folder / "one.wav").read_bytes())
    soundfile.write(folder / "short.wav", np.zeros(160), 16000)
    (folder / "short.txt").write_text("ba")
    call("align", ".", f"run={trained}", "format=all", "out=aligned", *QUIET, cwd=folder, status=1)
    told, out = capsys.readouterr().out, folder / "aligned"
    assert max(map(len, told.splitlines())) <= 80
    assert "2 recordings aligned: aligned" in told and "7 (1)" in told and "\u2013 (1)" in told
    assert "left out  none.wav: it has no transcript" in told
    assert sorted(path.name for path in out.iterdir()) == [
        "alignment.json",
        "characters.ctm",
        "one.TextGrid",
        "one.json",
        "two.TextGrid",
        "two.json",
        "words.ctm",
    ]
    found = intervals((out / "one.TextGrid").read_text(), "words")
    assert [text for _, _, text in found if text] == ["Ba,", "DI!", "7", "go."]
    assert all(a[1] == b[0] and a[0] < a[1] for a, b in zip(found, found[1:], strict=False))
    assert found[-1][1] == pytest.approx(soundfile.info(str(folder / "one.wav")).duration, abs=1e-5)
    assert [
        line.split()[:2] + line.split()[4:5] for line in (out / "words.ctm").read_text().splitlines()
    ] == [
        ["one", "1", "Ba,"],
        ["one", "1", "DI!"],
        ["one", "1", "7"],
        ["one", "1", "go."],
        ["two", "1", "lu"],
        ["two", "1", "me"],
    ]
    said = json.loads((out / "one.json").read_text())
    assert "".join(one["text"] for one in said["characters"]) == "badigo" and said["text"] == "Ba, DI! 7 go."
    assert said["words"][2]["confidence"] == 0 < said["words"][0]["confidence"]
    record = json.loads((out / "alignment.json").read_text())
    assert record["aligned"] == 2 and record["unknown_units"] == {"7": 1} and record["against_timit"] is None
    assert {one["id"]: one["reason"] for one in record["left_out"]} == {
        "none": "it has no transcript; write it beside the recording, as .txt or .lab",
        "short": "too short (0.01 s) for its transcript",
    }
    assert record["files"] == {"one": "one.wav", "two": "two.wav"}


def test_one_recording_to_standard_output(trained, recordings, capsys):
    folder = recordings(one="what is beside it")
    call("align", f"run={trained}", "files=[one.wav]", "align.text='ba di'", *QUIET, cwd=folder)
    out, err = capsys.readouterr()
    assert [line.split()[4] for line in out.splitlines()] == ["ba", "di"] and "1 recording aligned" in err
    call("align", f"run={trained}", "files=one.wav", "align.text='ba di'", "format=json", *QUIET, cwd=folder)
    assert [one["text"] for one in json.loads(capsys.readouterr().out)["words"]] == ["ba", "di"]


def test_a_split_of_the_runs_own_data(trained, tmp_path, capsys):
    call("align", f"run={trained}", "split=dev", *QUIET, cwd=tmp_path)
    out = trained / "alignments/dev"
    assert (
        len(list(out.glob("*.TextGrid"))) == 5
        and json.loads((out / "alignment.json").read_text())["aligned"] == 5
    )
    call("align", f"run={trained}", "dataset.max_utterances=2", *QUIET, cwd=tmp_path)
    assert json.loads((trained / "alignments/test/alignment.json").read_text())["aligned"] == 2


def test_times_of_timit_beside_the_audio(trained, recordings, capsys):
    folder = recordings(sx1="0 20000 Ba di go lu.")
    (folder / "sx1.wrd").write_text("0 4000 ba\n4000 8000 di\n8000 12000 go\n12000 16000 lu\n")
    call("align", f"run={trained}", "files=[sx1.wav]", "out=x", *QUIET, cwd=folder)
    told = capsys.readouterr().out
    assert "4 of 4 words" in told and max(map(len, told.splitlines())) <= 80
    starts = [start for start, _, text in intervals((folder / "x/sx1.TextGrid").read_text(), "words") if text]
    found = json.loads((folder / "x/alignment.json").read_text())["against_timit"]["words"]["start"]
    assert found["mean_absolute_ms"] == pytest.approx(
        1000 * np.abs(np.array(starts) - [0, 0.25, 0.5, 0.75]).mean(), abs=0.02
    )
    call("align", f"run={trained}", "files=[sx1.wav]", "out=y", "align.against=none", *QUIET, cwd=folder)
    assert json.loads((folder / "y/alignment.json").read_text())["against_timit"] is None


def test_the_phones_of_timit(tmp_path, shared_data, capsys):
    """A model of phones takes them from the .PHN, and is held against its times."""
    timit = shared_data("TIMIT")
    corpus = [
        "dataset=timit-phones",
        f"dataset.root={timit}",
        "dataset.test=[test]",
        "dataset.max_utterances=4",
    ]
    folder = run(*corpus, *TWO_STEPS, cwd=tmp_path)
    call("align", f"run={folder}", f"files=[{timit}/TRAIN/DR1/FVMH0]", "out=x", *QUIET, cwd=tmp_path)
    record = json.loads((tmp_path / "x/alignment.json").read_text())
    grid = (tmp_path / "x/SX206.TextGrid").read_text()
    assert record["aligned"] == 10 and 'name = "words"' not in grid and "phones" in capsys.readouterr().out
    found = record["against_timit"]["phones"]
    lines = [
        line.split() for path in timit.glob("TRAIN/DR1/FVMH0/*.PHN") for line in path.read_text().splitlines()
    ]
    assert (
        found["paired"] == found["of"] == sum(label not in ("h#", "pau", "epi", "q") for _, _, label in lines)
    )


def test_a_file_that_only_looks_like_timits(trained, recordings, capsys):
    folder = recordings(one="10 20 ba di")
    (folder / "one.wrd").write_text("ba 0.1 di 0.3\n")
    call("align", f"run={trained}", "files=[one.wav]", "out=x", *QUIET, cwd=folder)
    assert "TIMIT" not in capsys.readouterr().out
    call(
        "align",
        f"run={trained}",
        "files=[one.wav]",
        "out=x",
        "align.against=timit",
        *QUIET,
        cwd=folder,
        status=2,
    )
    assert "Line 1 of one.wrd is not START END LABEL" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["files=['gone*.wav']"], "gone*.wav: no file fits this pattern"),
        (["files=[gone.wav]"], "gone.wav: no such file"),
        (["-"], "not standard input"),
        (["files=[one.wav,two.wav]", "align.text='ba'"], "align.text is what one recording says"),
        (["files=[one.wav]", "format=srt"], "format=srt is no form of an alignment"),
        (["files=[one.wav]", "align.text='7'"], "the vocabulary has no unit of its transcript"),
        (["files=[one.wav]", "align.against=timit"], "no .WRD or .PHN"),
        (["files=[one.wav]", "align.against=libri"], "align.against=libri is not one of auto, timit, none"),
        (["files=[one.txt]"], "Nothing could be aligned"),
    ],
)
def test_what_cannot_be(trained, recordings, capsys, settings, words):
    folder = recordings(one="ba di", two="go")
    call("align", f"run={trained}", *settings, *QUIET, cwd=folder, status=2)
    assert words in capsys.readouterr().err


def test_text_that_the_rules_make_unlike_the_model(tmp_path, trained, recordings, capsys):
    folder = recordings(one="ba di")
    call("align", f"run={trained}", "text=upper", "files=[one.wav]", *QUIET, cwd=folder, status=2)
    assert "text rules" in capsys.readouterr().err


def test_a_split_of_another_dataset(trained, tmp_path, capsys):
    other = [
        word
        for word in make_corpus(tmp_path / "other", train=1, rest=2)
        if not word.startswith(("dataset.train", "dataset.dev"))
    ]
    call("align", f"run={trained}", *other, *QUIET, cwd=tmp_path, status=2)
    assert "for another one give out=FOLDER" in capsys.readouterr().err
    call("align", f"run={trained}", *other, "out=x", *QUIET, cwd=tmp_path)
    assert json.loads((tmp_path / "x/alignment.json").read_text())["aligned"] == 2


def test_a_split_of_a_checkpoint_needs_a_place(trained, tmp_path, capsys):
    call("align", f"run={trained}/checkpoints/best", *QUIET, cwd=tmp_path, status=2)
    assert "give out=FOLDER" in capsys.readouterr().err
