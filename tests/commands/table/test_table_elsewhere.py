"""A run in the columns of datasets that it was not trained on, scores of data that has changed, and the table
in LaTeX and JSON.
"""

import json
import os
import re
from pathlib import Path

import pytest
from harness import make_corpus
from tables import table, write_run

from asr_exp.cli.main import main
from asr_exp.commands.table.latex import escaped
from asr_exp.config.compose import compose
from asr_exp.data.corpora.base import read_corpus
from asr_exp.data.fingerprint import DataFingerprint
from asr_exp.runs.folder import resolve
from asr_exp.runs.results import protocol

GRID = ["rows=model", "columns=dataset", "model=tiny,wavlm-base"]
MODELS = ("tiny", "wavlm-base")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Two datasets of one's own, near and far."""
    monkeypatch.chdir(tmp_path)
    Path("conf/dataset").mkdir(parents=True)
    for name in ("near", "far", "third"):
        make_corpus(tmp_path / name, train=3, rest=2)
        splits = "".join(f"{s}: {tmp_path / name / s}.csv\n" for s in ("train", "dev", "test"))
        Path(f"conf/dataset/{name}.yaml").write_text(f"name: {name}\nreader: manifest\n{splits}")


def scored_on(run: Path, dataset: str, rate: float, **parts) -> Path:
    """What `evaluate RUN dataset=NAME` leaves."""
    own = json.loads((run / "result.json").read_text())
    kept = {key: value for key, value in own["protocol"].items() if key != "hash"}
    measured = protocol(**{**kept, "dataset": dataset, "ids": f"of {dataset}", **parts})
    place = run / "evaluations" / measured["hash"]
    place.mkdir(parents=True)
    test = {**own["splits"]["test"], "wer": rate, "ci95": [rate - 0.02, rate + 0.02]}
    section = resolve(compose([f"dataset={dataset}"]))["dataset"]
    whole = {**own, "protocol": measured, "splits": {"test": test}, "dataset": section}
    (place / "result.json").write_text(json.dumps(whole))
    return place


def cells(rows) -> dict[tuple[str, str], tuple[str, str]]:
    """(status, rate) by row and column."""
    return {(r["row"], r["column"]): (r["status"], r["ours"][:5]) for r in rows}


def test_evaluate_fills_the_cell_of_another_dataset(capsys):
    for number, model in enumerate(MODELS):
        run = write_run([f"model={model}", "dataset=near"], rate=0.1 + number / 10)
        scored_on(run, "far", 0.3 + number / 10)
    out, rows = table(capsys, *GRID, "dataset=near,far")
    assert cells(rows) == {
        ("tiny", "near"): ("finished", "0.1"),
        ("tiny", "far"): ("finished", "0.3"),
        ("wavlm-base", "near"): ("finished", "0.2"),
        ("wavlm-base", "far"): ("finished", "0.4"),
    }
    assert "- tiny / far: trained on near, scored by `evaluate`" in out
    assert "dataset=near,far" not in out  # no command trains on far


def test_a_run_of_its_own_comes_first_unless_trained_on_says_otherwise(capsys):
    near = write_run(["model=tiny", "dataset=near"], rate=0.1)
    write_run(["model=tiny", "dataset=far"], rate=0.2)
    scored_on(near, "far", 0.5)
    words = ["rows=model", "columns=dataset", "model=tiny", "dataset=near,far"]
    assert cells(table(capsys, *words)[1])["tiny", "far"] == ("finished", "0.2")
    assert cells(table(capsys, *words, "trained_on=near")[1])["tiny", "far"] == ("finished", "0.5")
    out, rows = table(capsys, *words, "trained_on=far")
    assert cells(rows)["tiny", "near"] == ("missing", "")
    assert "the run of far was not scored on it" in " ".join(out.split())
    assert main(["table", *words, "trained_on=nowhere"]) == 2
    assert "its datasets: near, far" in capsys.readouterr().err


def test_no_mean_of_runs_of_several_datasets(capsys):
    write_run(["model=tiny", "dataset=near", "seed=0"], rate=0.1)
    scored_on(write_run(["model=tiny", "dataset=near", "seed=1"], rate=0.1), "far", 0.5)
    write_run(["model=tiny", "dataset=far", "seed=0"], rate=0.2)
    words = ["rows=model", "columns=dataset", "model=tiny", "seed=0,1"]
    _, rows = table(capsys, *words, "dataset=near,far")
    (far,) = [row for row in rows if row["column"] == "far"]
    assert far["ours"] == "0.2" and far["runs"] == "1"
    # and where runs of two datasets were scored on a third, none is taken
    for name in ("near", "far"):
        scored_on(write_run(["model=tiny", f"dataset={name}", "seed=0"], rate=0.1), "third", 0.6)
    out, rows = table(capsys, *words, "dataset=near,far,third")
    (third,) = [row for row in rows if row["column"] == "third"]
    assert third["status"] == "missing" and "runs of near and of far were scored on it" in " ".join(
        out.split()
    )


@pytest.mark.parametrize("parts", [{"decoder": "beam"}, {"language": "tr"}, {"text": "upper"}])
def test_a_score_measured_otherwise_fills_nothing(capsys, parts):
    scored_on(write_run(["model=tiny", "dataset=near"], rate=0.1), "far", 0.5, **parts)
    _, rows = table(capsys, "rows=model", "columns=dataset", "model=tiny", "dataset=near,far")
    assert cells(rows)["tiny", "far"] == ("missing", "")


def test_kept_cells_say_what_was_trained_on(capsys):
    scored_on(write_run(["model=tiny", "dataset=near"], rate=0.1), "far", 0.5)
    words = ["rows=model", "columns=dataset", "model=tiny", "dataset=near,far"]
    _, rows = table(capsys, *words, "keep=kept.csv")
    out, again = table(capsys, *words, "cells=kept.csv")
    assert cells(rows) == cells(again) and "trained on near" in out


# ------------------------------------------------------------------------------------------------------------
# data that has changed


def remember(run: Path, dataset: str) -> None:
    """What `train` writes of its data."""
    config = compose([f"dataset={dataset}"])
    data = DataFingerprint.of(config.dataset, read_corpus(config.dataset, Path("cache")))
    data.save(run)
    whole = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**whole, "data": data.summary}))


def test_stale_where_transcripts_were_corrected(capsys, monkeypatch):
    words = ["model=tiny", "dataset=near"]
    run = write_run(words, rate=0.1)
    remember(run, "near")
    path = Path("near/test.csv")
    stat = path.stat()
    with monkeypatch.context() as patched:  # nothing is read while sizes and times are as they were
        patched.setattr("asr_exp.builders.changed_data.read_raw", lambda config: 1 / 0)
        assert table(capsys, *words)[1][0]["status"] == "finished"
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))  # touched, and nothing else
    assert table(capsys, *words)[1][0]["status"] == "finished"
    path.write_text(path.read_text().replace("test0.wav,", "test0.wav,lu "))
    out, (row,) = table(capsys, *words)
    assert row["status"] == "stale" and "test: 1 of 2 transcripts differs" in " ".join(out.split())
    path.unlink()  # a corpus that is not there says nothing
    assert table(capsys, *words)[1][0]["status"] == "finished"


def test_seeds_of_other_transcripts_make_no_mean(capsys):
    for seed in (0, 1, 2):
        run = write_run(["model=tiny", "dataset=near", f"seed={seed}"], rate=0.1 * (seed + 1))
        hashes = {"utterances": 2, "hash": "x", "references": f"{seed // 2}"}
        whole = json.loads((run / "result.json").read_text())
        (run / "result.json").write_text(json.dumps({**whole, "data": {"test": hashes}}))
    out, rows = table(capsys, "model=tiny", "dataset=near", "seed=0,1,2")
    assert [float(row["ours"]) for row in rows] == pytest.approx([0.15, 0.3])
    assert "it differs in the transcripts that the corpus had" in " ".join(out.split())


# ------------------------------------------------------------------------------------------------------------
# LaTeX, JSON


def read_latex(text: str) -> list[list[str]]:
    """The rows of the one tabular of a LaTeX text, whose braces and environments have to close."""
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    bare = re.sub(r"\\[\\{}%&#$_]", "", body)
    assert bare.count("{") == bare.count("}") and not re.search(r"[#$%]", bare.replace("$-$", ""))
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        assert kind == "begin" or opened.pop() == name
        opened += [name] if kind == "begin" else []
    assert not opened
    ((columns, inside),) = re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", body, re.DOTALL)
    inside = re.sub(r"\\(toprule|midrule|bottomrule)\b", "", inside)
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)&", row)] for row in inside.split("\\\\\n")]
    rows = [row for row in rows if row != [""]]
    assert {len(row) for row in rows} == {len(columns)}
    return rows


def test_latex(capsys):
    for number, model in enumerate(MODELS):
        run = write_run([f"model={model}", "dataset=near"], rate=0.2 - number / 10)
        scored_on(run, "far", 0.3 + number / 10)
    out, _ = table(capsys, *GRID, "dataset=near,far", "format=latex")
    assert read_latex(out) == [
        ["model", "near (A)", "far (B)"],
        ["tiny", "20.00 [19.00, 21.00]", r"\textbf{30.00} [28.00, 32.00]"],
        ["wavlm-base", r"\textbf{10.00} [9.00, 11.00]", "40.00 [38.00, 42.00]"],
    ]
    (written,) = Path("outputs/tables").glob("*/table.tex")
    assert written.read_text() == out
    out, _ = table(capsys, "model=tiny", "dataset=near", "optimizer.name=adamw,a_b", "format=latex")
    assert [row[0] for row in read_latex(out)][1:] == ["adamw", r"a\_b"]
    assert main(["table", "model=tiny", "dataset=near", "format=latex", "into=README.md"]) == 2
    assert main(["table", "model=tiny", "dataset=near", "format=latx"]) == 2
    assert "Did you mean 'latex'?" in capsys.readouterr().err


def test_latex_finds_nothing_of_its_own_in_a_text():
    assert escaped(r"50 % of a_b & {c} $d$ #1 ~ ^ \x") == (
        r"50 \% of a\_b \& \{c\} \$d\$ \#1 \textasciitilde{} \textasciicircum{} \textbackslash{}x"
    )
    assert escaped("[20, 22]") == "{}[20, 22]"


def test_json(capfd):
    write_run(["model=tiny", "dataset=near"], rate=0.2)
    assert main(["table", *GRID, "dataset=near", "--json"]) == 0
    out, err = capfd.readouterr()

    def refuse(word: str) -> None:
        raise AssertionError(word)

    found = json.loads(out, parse_constant=refuse)
    assert found["command"] == "table" and found["rows"] == ["model"] and found["columns"] == ["dataset"]
    tiny, wavlm = found["entries"]
    assert (tiny["value"], tiny["ci95"], tiny["status"]) == (0.2, pytest.approx([0.19, 0.21]), "finished")
    assert (wavlm["value"], wavlm["status"], wavlm["runs"][0]["status"]) == (None, "missing", "missing")
    assert found["protocols"][0]["parts"]["dataset"] == "near" and "| model" in err
