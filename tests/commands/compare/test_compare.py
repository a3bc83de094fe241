"""`compare` from the command line, on run folders written by hand: what it says, what it leaves, and what it
refuses.
"""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from invented_runs import PROTOCOL, invented, write_run

from asr_exp.cli.main import main
from asr_exp.runs.results import protocol, write_result
from asr_exp.scoring.error_rates import word_errors
from asr_exp.scoring.significance import compare_rates


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """a and b: B makes about half as many errors again as A, eight speakers."""
    monkeypatch.chdir(tmp_path)
    references, a, b = invented(0)
    speakers = [f"s{i}" for i in range(8)]
    write_run(tmp_path / "runs/a", references, a, speakers)
    write_run(tmp_path / "runs/b", references, b, speakers)
    return references, a, b, speakers


def asked(capsys, *arguments, status=0):
    """What a command line prints, and says of its mistakes."""
    assert main(["compare", *arguments]) == status
    out, err = capsys.readouterr()
    assert "Traceback" not in err and (out == "") == (status == 2)
    return err if status else out


def record(out):
    """What compare.json, whose path is the last line, says."""
    with open(out.splitlines()[-1], encoding="utf-8") as file:
        return json.load(file)


# ------------------------------------------------------------------------------------------------------------
# the answer


def test_what_it_says_and_leaves(runs, capsys, tmp_path):
    references, a, b, speakers = runs
    out = asked(capsys, "runs/a", "runs/b")
    assert max(map(len, out.splitlines())) <= 80
    found = record(out)
    for side, name in (("a", "runs/a"), ("b", "runs/b")):
        summary = json.loads((tmp_path / name / "result.json").read_text())["splits"]["test"]
        for metric in ("wer", "cer"):
            assert found["metrics"][metric][side]["value"] == pytest.approx(summary[metric])
            assert f"  {side.upper()}            {100 * summary[metric]:.2f} %  [" in out
    errors = [[word_errors(r, h).errors for r, h in zip(references, said, strict=True)] for said in (a, b)]
    lengths, clusters = [len(r.split()) for r in references], np.arange(len(references)) % len(speakers)
    own = compare_rates(np.array(errors[:1]), np.array(errors[1:]), np.array(lengths), clusters).difference
    assert found["metrics"]["wer"]["difference"]["interval"] == pytest.approx(own.interval)
    assert out.count("10,000 draws (few: a rough guide)") == 2  # 8 speakers, WER and CER
    assert (
        f"t test       p = {own.p:.3f} over 8 speakers\n" in out
        and f"{100 * own.value:+.2f} points  [" in out
    )
    assert "p = 0.017, z = -2.38 over 78 segments" in out  # as sc_stats has it
    wins = [
        sum(x < y for x, y in zip(*errors, strict=True)),
        sum(x > y for x, y in zip(*errors, strict=True)),
    ]
    assert [found["wins"]["utterances"][side] for side in "ab"] == wins
    assert sum(found["wins"]["speakers"].values()) == 8 and sum(found["wins"]["utterances"].values()) == 60
    assert found["verdict"] in " ".join(out.split()) and "A and B are one run each" in out
    assert found["a"] == {"runs": ["runs/a"], "seeds": [42], "protocol": protocol(**PROTOCOL)["hash"]}


def test_the_utterances_that_changed_most(runs, capsys):
    references, a, b, _ = runs
    out = asked(capsys, "runs/a", "runs/b")
    path = out.splitlines()[-1].replace("compare.json", "utterances.jsonl")
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    change = [abs(row["errors_a"] - row["errors_b"]) for row in rows]
    assert len(rows) == 60 and change == sorted(change, reverse=True) and change[0] > change[-1] == 0
    row, number = rows[0], int(rows[0]["id"][-3:])
    assert (row["reference"], row["a"], row["b"]) == (references[number], [a[number]], [b[number]])
    shown = out[out.index("changed most") :]
    assert (
        shown.count(" in A, ") == 5
        and shown.index(rows[0]["id"]) < shown.index(rows[4]["id"])
        and rows[5]["id"] not in shown
    )


@pytest.mark.parametrize(("sides", "words"), [
    (("runs/good", "runs/bad"), "Yes, A is better than B at the 5 % level: WER 0.00 % against"),
    (("runs/bad", "runs/good"), "No, B is better than A at the 5 % level"),
    (("runs/a", "runs/near"), "It cannot be told with these 8 speakers whether A is better than B"),
    (("runs/a", "runs/a"), "There is nothing to tell A from B"),
])  # fmt: skip
def test_the_plain_sentence(runs, capsys, tmp_path, sides, words):
    references, a, b, speakers = runs
    write_run(tmp_path / "runs/good", references, references, speakers)
    write_run(tmp_path / "runs/bad", references, [r[:-2] for r in references], speakers)
    write_run(tmp_path / "runs/near", references, [*a[:-6], *b[-6:]], speakers)
    found = record(asked(capsys, *sides))
    assert found["verdict"].startswith(words)
    assert ("points would show" in found["verdict"]) == ("cannot" in words)
    assert (found["metrics"]["wer"]["difference"]["p"] == 1) == ("nothing" in words)


def test_the_same_question_has_the_same_answer_in_the_same_place(runs, capsys):
    once = asked(capsys, "runs/a", "runs/b")
    place = once.splitlines()[-1]
    assert asked(capsys, "a=runs/a", "b=runs/b") == once
    assert asked(capsys, "runs/a/", "b=./runs/b").splitlines()[-1] == place
    other = asked(capsys, "runs/b", "runs/a", "output_root=elsewhere")
    assert other.splitlines()[-1].startswith("elsewhere/comparisons/")
    assert other.splitlines()[-1].split("/")[-2] != place.split("/")[-2]


def test_names_of_folders_that_read_as_something_else(runs, capsys, tmp_path):
    references, a, _, _ = runs
    for name in ("8128998e66", "it's, a run"):
        write_run(tmp_path / name, references, a)
    assert "nothing to tell A from B" in asked(capsys, "8128998e66", "it's, a run")
    assert "write such a folder as ./FOLDER" in asked(capsys, "a=8128998e66", "b=runs/a", status=2)


def test_speakers_that_are_not_known(runs, capsys, tmp_path):
    references, a, b, speakers = runs
    write_run(tmp_path / "runs/unnamed", references, b)
    out = asked(capsys, "runs/a", "runs/unnamed")
    assert "over 60 utterances" in out and "10,000 draws\n" in out and "No two speakers are known" in out
    assert "speakers" not in record(out)["wins"]
    for name, texts in (("alike", a), ("also", b)):  # one speaker is none to tell from another
        write_run(tmp_path / name, references, texts, ["x"] * len(references))
    assert "over 60 utterances" in asked(capsys, "alike", "also")
    write_run(tmp_path / "one", references[:1], a[:1])
    write_run(tmp_path / "two", references[:1], ["nothing"])
    alone = asked(capsys, "one", "two")
    assert "It cannot be told from 1 utterance whether A is better than B" in " ".join(alone.split())


def test_texts_without_spaces(runs, capsys, tmp_path):
    references = ["今天天气很好我们去公园", "他昨天买了一本新书", "北京是中国的首都"]
    for name, texts in (("whole", references), ("parted", [" ".join(text) for text in references])):
        write_run(tmp_path / name, texts, [text[1:] for text in texts])
        assert ("the CER is the figure to read" in " ".join(asked(capsys, name, name).split())) == (
            name == "whole"
        )


def test_phones(runs, capsys, tmp_path):
    references, a, b, speakers = runs
    for name, said in (("pa", a), ("pb", b)):
        write_run(tmp_path / name, references, said, speakers, metric="per")
    found = record(asked(capsys, "pa", "pb"))
    assert list(found["metrics"]) == ["per"] and "PER" in found["verdict"]


def test_seeds(runs, capsys, tmp_path):
    references, a, _, speakers = runs
    for seed in range(3):
        said = a[seed:] + a[:seed]  # of other utterances, and so wrong in another way with each seed
        said = [
            r if number % 5 else other for number, (r, other) in enumerate(zip(references, said, strict=True))
        ]
        write_run(tmp_path / f"a{seed}", references, said, speakers, seed)
        write_run(tmp_path / f"b{seed}", references, [f"{text} more" for text in said], speakers, seed)
    out = asked(capsys, "a=[a2,a0,a1]", "b=[b0,b1,b2]")
    found = record(out)
    assert (
        found["a"]["seeds"] == [0, 1, 2]
        and "8 speakers and 3 + 3 seeds" in out
        and "(seed 2)" in out
        and "one run" not in out
    )
    assert found["verdict"].startswith("Yes, A is better")
    # Seeds are drawn in pairs, and in every pair B has a word too many: only the speakers are left to vary.
    apart = record(asked(capsys, "a=[a2,a0,a1]", "b=[b0,b1]"))["metrics"]["wer"]["difference"]
    assert found["metrics"]["wer"]["difference"]["error"] < apart["error"] / 3
    assert "B is one run" in asked(capsys, "a=[a0,a1]", "b=b0")


def test_another_split(runs, capsys, tmp_path):
    references, a, b, speakers = runs
    for name, said in (("runs/a", a), ("runs/b", b)):  # the test splits' coverage says nothing of dev
        write_run(
            tmp_path / name,
            references,
            said,
            speakers,
            split="dev",
            coverage=0.9 if name == "runs/a" else 1.0,
        )
    assert "WER on demo en dev, 60 utterances" in asked(capsys, "runs/a", "runs/b", "split=dev")
    assert "coverage: 0.9 against 1.0" in asked(capsys, "runs/a", "runs/b", status=2)


# ------------------------------------------------------------------------------------------------------------
# what it refuses


def test_references_that_differ(runs, capsys, tmp_path):
    references, a, b, speakers = runs
    write_run(tmp_path / "runs/upper", [*references[:-2], *(r.upper() for r in references[-2:])], b, speakers)
    err = asked(capsys, "runs/a", "runs/upper", status=2)
    assert (
        "2 of 60 references differ, such as that of utt-058" in err
        and "text rules" in err
        and "3 utterances" not in err
    )
    write_run(tmp_path / "runs/short", references[:-3], b[:-3], speakers)
    err = asked(capsys, "runs/a", "runs/short", status=2)
    assert (
        "3 utterances are in one of them only, such as utt-057" in err
        and "coverage" in err
        and "another split" in err
    )


def test_protocols_that_differ(runs, capsys, tmp_path):
    references, a, b, speakers = runs
    write_run(tmp_path / "runs/upper", references, b, speakers, text="upper", rules=["upper"])
    err = asked(capsys, "runs/a", "runs/upper", status=2)
    assert (
        "text: standard* against upper*; rules: ['lower'] against ['upper']" in err and "b=runs/upper" in err
    )
    write_run(tmp_path / "runs/beam", references, b, speakers, decoder="beam")
    assert "A and B differ in decoder: greedy against beam." in asked(capsys, "runs/a", "runs/beam")
    write_run(tmp_path / "runs/beam1", references, b, speakers, decoder="beam", seed=1)
    assert "decoder" in asked(capsys, "a=[runs/a,runs/beam1]", "b=runs/b", status=2)


@pytest.mark.parametrize(("arguments", "words"), [
    (["runs/a"], "b names no run"),
    ([], "a names no run"),
    (["a=[]", "b=runs/b"], "a names no run"),
    (["runs/a", "runs/b", "runs/c"], "'runs/c'"),
    (["runs/a", "nowhere"], "b=nowhere is not the folder of a run"),
    (["runs/a", "runs"], "b=runs is not the folder of a run"),
    (["runs/a", "runs/b", "split=dev"], "evaluate run=runs/a split=dev"),
    (["runs/a", "runs/b", "split=devv"], "Did you mean 'dev'?"),
    (["a=[runs/a,runs/b]", "b=runs/b"], "both have seed=42"),
    (["runs/a", "stopped"], "has not finished (its status is stopped)"),
    (["runs/a", "torn"], "Line 2 of torn/hypotheses.test.jsonl is no line of hypotheses"),
    (["runs/a", "twice"], "utt-000, which was there before"),
    (["runs/a", "empty"], "empty/hypotheses.test.jsonl is empty"),
    (["silent", "silent"], "There is not a word in the references of a=silent"),
])  # fmt: skip
def test_a_mistake_is_told(runs, capsys, tmp_path, arguments, words):
    references, a, _, _ = runs
    for name in ("torn", "twice", "empty"):
        write_run(tmp_path / name, references[:3], a[:3])
    write_run(tmp_path / "silent", ["", ""], ["a", ""])
    lines = (tmp_path / "torn/hypotheses.test.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "torn/hypotheses.test.jsonl").write_text(lines[0] + lines[1][:40])
    (tmp_path / "twice/hypotheses.test.jsonl").write_text(lines[0] * 2)
    (tmp_path / "empty/hypotheses.test.jsonl").write_text("")
    (tmp_path / "stopped").mkdir()
    write_result(tmp_path / "stopped", {"status": "stopped", "reason": "Stopped: at step 3"})
    err = asked(capsys, *arguments, status=2)
    assert err.startswith("error: ") and words in err and not (tmp_path / "outputs").exists()


def test_it_comes_at_once_and_needs_no_torch(runs, tmp_path):
    heavy = "torch", "transformers", "datasets"
    code = (
        f"import sys; from asr_exp.cli.main import main; main(); print([m for m in {heavy} if m in"
        " sys.modules])"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, "compare", "runs/a", "runs/b"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert time.monotonic() - began < 10  # 0.7 s on an idle core


def test_help(capsys):
    assert asked(capsys, "--help").startswith("Is run A better than run B")
    assert main(["--help"]) == 0 and "compare  " in capsys.readouterr().out
