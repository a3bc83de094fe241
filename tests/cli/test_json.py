"""`--json`: one document on standard output, whatever else a command and the processes it starts print."""

import json
import os
from pathlib import Path

import pytest
from harness import QUIET, TWO_STEPS, cli, make_corpus, one_sentence, result, run

from asr_exp.core.json_document import give_json, json_on_stdout


def document(done) -> dict:
    """The one document on standard output, in which no number is NaN."""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    return json.loads(done.stdout, parse_constant=refuse)


def test_evaluate_compare_and_check(tmp_path, cache):
    words = [*make_corpus(tmp_path / "corpus", train=8, rest=4), *TWO_STEPS]
    folder = run(*words, cwd=tmp_path)
    done = cli("evaluate", folder, "split=dev", "--json", *QUIET, cwd=tmp_path)
    found = document(done)
    assert found["score"] == result(folder)["splits"]["dev"] and found["own"] and "Done" in done.stderr
    assert (found["split"], found["changed_data"], found["folder"]) == ("dev", None, str(folder))
    two = cli("evaluate", folder, "split=dev", "--json", *QUIET, "trainer.devices=2", cwd=tmp_path)
    assert document(two)["score"]["utterances"] == 4
    done = cli("compare", f"a={folder}", f"b={folder}", "--json", cwd=tmp_path)
    found = document(done)
    saved = json.loads((tmp_path / found["folder"] / "compare.json").read_text())
    assert {key: found[key] for key in saved} == saved and found["command"] == "compare"
    done = cli("check", *words, "check.steps=false", "--json", cwd=tmp_path, status=None)
    found = document(done)
    assert done.returncode == (found["status"] == "fail")
    assert {section["title"] for section in found["sections"]} >= {"Transcripts", "Model"}
    findings = [one for section in found["sections"] for one in section["findings"]]
    assert sum(found["found"].values()) == len(findings) > 0


@pytest.mark.parametrize(
    "words, told",
    [
        (["evaluate", "run=nowhere"], "nowhere"),
        (["compare", "nowhere", "else"], "nowhere"),
        (["check", "dataset=csv"], "dataset.train"),
        (["table", "model=nothing"], "nothing"),
        (["train"], "--json is a flag of check, compare, evaluate, table"),
        (["evaluate", "-m", "seed=0,1"], "--json is of one run"),
    ],
)
def test_an_error_is_a_sentence_and_no_document(tmp_path, words, told):
    done = cli(*words, "--json", cwd=tmp_path, status=2)
    assert done.stdout == "" and told in one_sentence(done)


def test_what_json_has_no_word_for(capfd):
    with json_on_stdout():
        print("by the way")
        os.system("echo by another process")
        give_json("check", {"rate": float("nan"), "far": [float("inf"), 1.5], "where": Path("a/b")})
    out, err = capfd.readouterr()
    assert json.loads(out) == {"command": "check", "rate": None, "far": [None, 1.5], "where": "a/b"}
    assert "by the way" in err and "by another process" in err
    give_json("check", {"rate": 1.0})  # nobody asked
    assert capfd.readouterr().out == ""
