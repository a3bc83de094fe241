"""`table`: cells found among run folders, scores of different protocols apart, any grid."""

import csv
import io
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock
from tables import BASE, ROOT, edit, grids, row, table, write_experiments, write_run

from asr_exp.cli.main import main
from asr_exp.commands.table.arrange import _letter
from asr_exp.commands.table.cells import recipe
from asr_exp.config.compose import compose
from asr_exp.runs.folder import signature


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_experiments(tmp_path / "conf", ("base", "sew"))
    return tmp_path


# ------------------------------------------------------------------------------------------------------------
# what has become of a cell


def test_a_table_of_experiments_has_all_its_rows(capsys, somewhere):
    write_experiments(somewhere / "conf")
    write_run([*BASE, "seed=0"], 0.22, [0.21, 0.23])
    out, rows = table(capsys, "experiment=hf-mini", ROOT, "seed=0")
    assert [r["row"] for r in rows] == ["base", "distil", "large", "sew"] and [r["status"] for r in rows] == [
        "finished"
    ] + 3 * ["missing"]
    one = row(rows, "base")
    assert (float(one["ours"]), float(one["ci95_low"]), float(one["ci95_high"])) == (0.22, 0.21, 0.23)
    assert (one["published"], one["published_hardware"], one["published_time"]) == (
        "0.2151",
        "1 TITAN RTX",
        "32 min",
    )
    assert (one["hardware"], one["seconds"], one["coverage"]) == ("2 x NVIDIA H200", "1900.0", "1.0")
    assert float(one["difference"]) == pytest.approx(0.0049) and one["verdict"] == "as published"
    assert (
        one["command"]
        == f"python -m asr_exp experiment=hf-mini/base {ROOT} seed=0"
        in out.replace(" \\\n    ", " ")
    )
    assert (
        "22.00 [21.00, 23.00]" in out
        and "+0.49" in out
        and "31.7 min" in out
        and "inferred: schedule.warmup_steps" in out
    )
    assert one["protocol_hash"] in out


def test_cells_have_the_signatures_of_their_runs(capsys):
    table(
        capsys,
        "experiment=hf-mini",
        ROOT,
        "seed=0,1",
        "optimizer.lr=1e-4,0.001",
        "trainer.patience=null,3",
        "text=hf_compat,standard",
        "rows=[experiment,optimizer.lr,trainer.patience,text]",
    )
    cells = list(csv.DictReader(io.StringIO(Path("outputs/tables/hf-mini/cells.csv").read_text())))
    assert len(cells) == 2 * 2**4 == len({cell["signature"] for cell in cells})
    for cell in cells[::9]:
        assert cell["signature"] == signature(compose([*cell["cell"].split(), ROOT]))


def test_failed_and_stopped_cells_say_why(capsys):
    write_run([*BASE, "seed=0"], status="failed", reason="OutOfMemoryError: CUDA out of | memory\n<b>")
    write_run([*BASE, "seed=1"], status="stopped", reason="UserError: at step 300")
    write_run([*BASE, "seed=2"], 0.21)
    out, rows = table(capsys, "experiment=hf-mini/base", ROOT, "seed=0,1,2,3")
    assert "seed 0 failed (OutOfMemoryError: CUDA out of | memory <b>)" in rows[0]["notes"]
    assert "seed 1 stopped (at step 300)" in rows[0]["notes"] and "seed 3 missing" in rows[0]["notes"]
    assert (rows[0]["runs"], rows[0]["runs_asked"], rows[0]["ours"]) == ("1", "4", "0.21")
    assert (
        "1 of 4" in out
        and "\\| memory &lt;b>" in out
        and "<b>" not in Path("outputs/tables/hf-mini-base/table.html").read_text()
    )


def hold(path, held, leave):
    with FileLock(path):
        held.set()
        leave.wait(30)


def test_a_held_lock_is_a_run_at_work(capsys):
    folder = write_run([*BASE, "seed=0"], status="failed", reason="the attempt before")
    (folder / "metrics.jsonl").write_text('{"step": 9}\n{"step": 120, "train/loss": 1.5}\n')
    context = multiprocessing.get_context("fork")
    held, leave = context.Event(), context.Event()
    process = context.Process(target=hold, args=(folder / ".lock", held, leave))
    process.start()
    assert held.wait(30)
    _, rows = table(capsys, "experiment=hf-mini/base", ROOT, "seed=0", "trainer.max_steps=null")
    leave.set()
    process.join()
    assert (rows[0]["status"], rows[0]["notes"]) == ("running", "running (step 120)")
    _, rows = table(capsys, "experiment=hf-mini/base", ROOT, "seed=0")
    assert (rows[0]["status"], rows[0]["notes"]) == ("failed", "failed (the attempt before)")


def test_a_run_without_a_word(capsys):
    folder = write_run([*BASE, "seed=0"])
    (folder / "result.json").unlink()
    (folder / "checkpoints/last").mkdir(parents=True)
    _, rows = table(capsys, "experiment=hf-mini/base", ROOT, "seed=0")
    assert rows[0]["status"] == "running" and "no process of this machine holds its lock" in rows[0]["notes"]
    (folder / "environment.json").write_text(json.dumps({"host": socket.gethostname()}))  # then it would
    _, rows = table(capsys, "experiment=hf-mini/base", ROOT, "seed=0")
    assert rows[0]["status"] == "stopped" and "the same command goes on" in rows[0]["notes"]
    (folder / "environment.json").unlink()
    for path in folder.iterdir():
        os.utime(path, (time.time() - 7200,) * 2)
    _, rows = table(capsys, "experiment=hf-mini/base", ROOT, "seed=0")
    assert rows[0]["status"] == "stopped" and "before its first step" in rows[0]["notes"]
    (folder / "result.json").write_text('{"status": "fin')
    _, rows = table(capsys, "experiment=hf-mini/base", ROOT, "seed=0")
    assert rows[0]["status"] == "stale" and "cannot be read" in rows[0]["notes"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: edit(f, signature="0123456789"), "signature 0123456789"),
        (lambda f: edit(f, versions={"asr_exp": "7.2.0"}), "made by asr_exp 7.2.0"),
        (
            lambda f: (f / "config.yaml").write_text(
                (f / "config.yaml").read_text().replace("seed: 0", "seed: 5")
            ),
            "config.yaml has the",
        ),
        (lambda f: (f / "config.yaml").unlink(), "config.yaml is gone"),
        (lambda f: (f / "config.yaml").write_text("gone: 3\n"), "does not fit this version"),
        (lambda f: edit(f, splits={"test": {"wer": None, "per": 0.3}}), "no WER of the test split"),
        (lambda f: edit(f, protocol={}), "by which protocol"),
        (lambda f: f.rename(f.with_name("aaaaaaaaaa")), "aaaaaaaaaa asked for the same"),
    ],
)
def test_a_stale_cell_says_what_does_not_fit(capsys, spoil, words):
    spoil(write_run([*BASE, "seed=0"]))
    _, rows = table(capsys, "experiment=hf-mini/base", ROOT, "seed=0")
    assert rows[0]["status"] == "stale" and words in rows[0]["notes"] and rows[0]["ours"] == ""


def test_before_1_0_the_second_number_of_a_version_counts_and_the_third_does_not(capsys, monkeypatch):
    monkeypatch.setattr("asr_exp.commands.table.run_folders.__version__", "0.7.3")
    folder = write_run([*BASE, "seed=0"])
    for version, status in (("0.7.0", "finished"), ("0.6.3", "stale"), ("1.7.3", "stale")):
        edit(folder, versions={"asr_exp": version})
        _, rows = table(capsys, "experiment=hf-mini/base", ROOT, "seed=0")
        assert rows[0]["status"] == status, version
    monkeypatch.setattr("asr_exp.commands.table.run_folders.__version__", "2.7.3")
    edit(folder, versions={"asr_exp": "2.6.0"})
    _, rows = table(capsys, "experiment=hf-mini/base", ROOT, "seed=0")
    assert rows[0]["status"] == "finished"


def test_the_interval_of_a_run_is_that_of_its_main_rate(capsys):
    """The one in its result.json is of the WER, and says nothing of a CER."""
    write_run([*BASE, "seed=0"], 0.3, [0.29, 0.31])
    shown = []
    for metric in ("wer", "cer"):
        _, rows = table(capsys, "experiment=hf-mini/base", ROOT, "seed=0", f"published.metric={metric}")
        shown.append((rows[0]["metric"], float(rows[0]["ours"]), rows[0]["ci95_low"], rows[0]["ci95_high"]))
    assert shown == [("wer", 0.3, "0.29", "0.31"), ("cer", pytest.approx(0.1), "", "")]


def test_letters_of_many_protocols_go_on_as_columns_of_a_sheet_do():
    assert [_letter(n) for n in (0, 25, 26, 27, 51, 52, 701, 702)] == [
        "A", "Z", "AA", "AB", "AZ", "BA", "ZZ", "AAA"
    ]  # fmt: skip


def test_a_rehearsal_is_none_of_the_runs_scores(capsys):
    edit(write_run([*BASE, "seed=0"], 0.2151), rehearsal=True)
    write_run([*BASE, "seed=1"], 0.2151)
    _, rows = table(capsys, "experiment=hf-mini/base", ROOT, "seed=0")
    assert (rows[0]["status"], rows[0]["ours"], rows[0]["verdict"], rows[0]["difference"]) == (
        "rehearsal",
        "",
        "",
        "",
    )
    _, rows = table(capsys, "experiment=hf-mini/base", ROOT, "seed=0,1")
    assert (rows[0]["runs"], rows[0]["notes"]) == ("1", "seed 0 rehearsal")


# ------------------------------------------------------------------------------------------------------------
# protocols


def test_scores_of_other_protocols_stand_apart(capsys):
    write_run([*BASE, "seed=0"], 0.20)
    write_run([*BASE, "seed=1"], 0.24, of_protocol={"padding": "hf_compat"})
    write_run(["experiment=hf-mini/sew", ROOT, "seed=0"], 0.30, of_protocol={"ids": "another list"})
    out, rows = table(capsys, "experiment=hf-mini", ROOT, "seed=0,1")
    assert {(r["row"], r["protocol"], r["ours"]) for r in rows if r["protocol"]} == {
        ("base", "A", "0.2"), ("base", "B", "0.24"), ("sew", "C", "0.3")}  # fmt: skip
    assert len({r["protocol_hash"] for r in rows if r["protocol"]}) == 3
    assert "seed 1 is under protocol B, and not in this mean" in row(rows, "base", protocol="A")["notes"]
    assert out.count("Not to be compared with A: it differs in") == 2
    assert [[line[0] for line in lines[1:] if line[2].endswith("]")] for lines in grids(out)[:3]] == [
        ["base"],
        ["base"],
        ["sew"],
    ]


def test_a_protocol_whose_hash_was_edited_equals_no_other(capsys):
    write_run([*BASE, "seed=0"], 0.20)
    folder = write_run(["experiment=hf-mini/sew", ROOT, "seed=0"], 0.30)
    edit(
        folder,
        protocol=json.loads((folder / "result.json").read_text())["protocol"] | {"hash": "feedfeedfeed"},
    )
    out, rows = table(capsys, "experiment=hf-mini", ROOT, "seed=0")
    assert (
        row(rows, "base")["protocol"] != row(rows, "sew")["protocol"] and "differs in its hash alone" in out
    )


@pytest.mark.parametrize(("inventory", "split", "verdict", "words"), [
    ("espeak", "test", "not comparable", "its inventory is cpc, ours espeak"),
    ("cpc", "CPC test", "as published", None), ("cpc", "test", "cannot tell", "published on CPC test"),
])  # fmt: skip
def test_phones_of_another_inventory_are_not_set_against_published_ones(
    capsys, inventory, split, verdict, words
):
    row_, places = "experiment=hf-common-voice-phones/it", "dataset.root=/corpora/cv"
    of_protocol = {"inventory": inventory, "split": [split], "metric": "per"}
    folder = write_run([row_, places], of_protocol=of_protocol)
    scores = json.loads((folder / "result.json").read_text())["splits"]["test"]
    edit(folder, splits={"test": scores | {"per": 0.077, "wer": None}})
    out, rows = table(capsys, row_, places)
    assert (rows[0]["published"], rows[0]["ours"], rows[0]["verdict"]) == ("0.077", "0.077", verdict)
    assert (rows[0]["difference"] == "") == (verdict == "not comparable") and (
        words is None or words in rows[0]["notes"]
    )
    assert ("measured by another protocol" in out) == (verdict == "not comparable")
    assert "Tolerance" in out or verdict == "not comparable"


# ------------------------------------------------------------------------------------------------------------
# grids


def test_a_grid_parts_a_column_by_protocol(capsys):
    common = [ROOT, "seed=0"]
    for model, rate in (("tiny", 0.5), ("distilhubert", 0.4)):
        write_run([f"model={model}", "dataset=timit", *common], rate)
        other = {"ids": "5678" if model == "tiny" else "9999"}
        write_run([f"model={model}", "dataset=librispeech-100h", *common], rate / 2, of_protocol=other)
    models, datasets = "model=tiny,distilhubert,hubert-base", "dataset=timit,librispeech-100h"
    arguments = ["rows=model", "columns=dataset", "mean_over=seed", models, datasets, *common]
    out, rows = table(capsys, *arguments)
    header, *body = grids(out)[0]
    assert header == ["model", "timit (A)", "librispeech-100h (B)", "librispeech-100h (C)"]
    shown = [[cell.split(" [")[0] for cell in line] for line in body]
    assert shown == [
        ["tiny", "50.00", "25.00", ""],
        ["distilhubert", "40.00", "", "20.00"],
        ["hubert-base", "missing", "missing", ""],
    ]
    said = " ".join(out.split())
    assert (
        "Not to be compared with B: it differs in utterances." in said
        and row(rows, "tiny", "timit")["protocol"] == "A"
    )
    assert (
        "No published score belongs to these runs." in said
        and "experiment=hf-timit/distilhubert (67.76 on test)" in said
    )
    # Turned around, the rows carry the corpora.
    out, _ = table(
        capsys,
        *[
            a.replace("rows=model", "rows=dataset").replace("columns=dataset", "columns=model")
            for a in arguments
        ],
    )
    assert [line[0] for line in grids(out)[0][1:]] == [
        "timit (A)",
        "librispeech-100h (B)",
        "librispeech-100h (C)",
    ]


def test_a_grid_of_experiments_shows_what_is_published(capsys):
    write_run([*BASE, "seed=0"], 0.22)
    write_run([*BASE, "seed=1"], 0.20)
    grid = ["rows=model", "columns=dataset", "mean_over=seed", "experiment=hf-mini", ROOT]
    out, rows = table(capsys, *grid, "seed=0,1")
    ours, theirs, *_ = grids(out)
    assert ours[0] == theirs[0] == ["model", "timit"]
    assert [line[0] for line in ours[1:]] == ["wav2vec2-base", "sew-small-100k"]
    assert [line[1].partition(" [")[0] for line in ours[1:]] == ["21.00", "missing"]
    assert [line[1] for line in theirs[1:]] == ["21.51: -0.51, cannot tell", "29.88"]
    assert "published 21.51" in Path("outputs/tables/hf-mini/table.html").read_text()
    # Two experiments of one place are told apart, not averaged.
    _, rows = table(capsys, *grid[:3], "experiment=hf-mini/base,hf-timit/wav2vec2-base", ROOT)
    assert [r["row"] for r in rows] == [
        "wav2vec2-base, hf-mini/base",
        "wav2vec2-base, hf-timit/wav2vec2-base",
    ]


def test_runs_are_averaged_over_what_is_asked(capsys):
    for seed in (0, 1):
        for split_seed in (3, 4):
            write_run(
                [f"seed={seed}", f"dataset.split_seed={split_seed}"], 0.2 + seed / 10 + split_seed / 100
            )
    several = ["seed=0,1", "dataset.split_seed=3,4"]
    means = {
        "mean_over=[seed,dataset.split_seed]": [0.285],
        "mean_over=dataset.split_seed": [0.235, 0.335],
        "mean_over=seed": [0.28, 0.29],
    }
    for mean_over, expected in (means | {"mean_over=null": [0.23, 0.24, 0.33, 0.34]}).items():
        _, rows = table(capsys, *several, mean_over)
        assert [float(r["ours"]) for r in rows] == pytest.approx(expected), mean_over


def test_keys_that_are_neither_row_nor_column_nor_mean_make_rows(capsys):
    write_run(["optimizer.lr=0.001", "seed=0"], 0.3)
    out, rows = table(capsys, "optimizer.lr=0.001,0.002", "seed=0", "name=rates")
    assert [r["row"] for r in rows] == ["0.001", "0.002"] and grids(out)[0][0][0] == "optimizer.lr"
    _, rows = table(capsys, "optimizer.lr=0.001,0.002", "model=tiny,distilhubert", "seed=0,1")
    assert rows[0]["row"] == "optimizer.lr 0.001, tiny" and len(rows) == 4
    _, rows = table(capsys, "seed=0")
    assert [r["row"] for r in rows] == ["demo/tiny"]


# ------------------------------------------------------------------------------------------------------------
# what is asked


def test_what_a_file_varies_is_in_the_table(capsys, somewhere):
    path = somewhere / "conf/experiment/hf-mini/_base.yaml"
    path.write_text("# @package _global_\nhydra: {sweeper: {params: {seed: '0,1'}}}\n")
    for name in ("base", "sew"):
        row_ = path.with_name(f"{name}.yaml")
        row_.write_text(row_.read_text().replace("defaults:\n", "defaults:\n  - /experiment/hf-mini/_base\n"))
    for seed in (0, 1):
        write_run([*BASE, f"seed={seed}"], 0.2 + seed / 100)
    _, rows = table(capsys, "experiment=hf-mini", ROOT)
    assert [(r["row"], r["runs"], r["runs_asked"]) for r in rows] == [("base", "2", "2"), ("sew", "0", "2")]
    _, rows = table(capsys, "experiment=hf-mini", ROOT, "seed=1")  # the command line's own values count
    assert [(r["ours"][:4], r["runs_asked"]) for r in rows] == [("0.21", "1"), ("", "1")]


def test_a_row_that_cannot_be_does_not_take_the_others_with_it(capsys, somewhere):
    write_run([*BASE, "seed=0"])
    (somewhere / "conf/experiment/hf-mini/sew.yaml").write_text("# @package _global_\ntrainer: {lrr: 3}\n")
    _, rows = table(capsys, "experiment=hf-mini", ROOT, "seed=-1,0")
    assert (
        row(rows, "base")["status"] == "finished"
        and "seed -1 failed (seed=-1 is too small" in row(rows, "base")["notes"]
    )
    assert (
        row(rows, "sew")["status"] == "failed"
        and "sew.yaml: trainer.lrr is not a key" in row(rows, "sew")["notes"]
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["experiment=hf-mni"], ["hf-mni"]),
        (["rows=modle", "model=tiny,hf"], ["rows=modle", "'model'"]),
        (["rows=model", "columns=model", "model=tiny,hf"], ["model cannot be in two"]),
        (["mean_over=optimizer.lr"], ["optimizer.lr=a,b"]),
        (["check=true"], ["into="]),
        (["cells=nowhere.csv"], ["nowhere.csv"]),
        (["into=nowhere.md"], ["nowhere.md"]),
        (["trainer.lrr=1,2"], ["trainer.lrr is not a key"]),
        (["split=dev"], ["split=dev"]),
        (["table.nme=x"], ["table.nme", "'table.name'"]),
        (["optimizer.lr=interval(1,2)"], ["list of values"]),
        (["hydra.sweeper.params.seed=1,2"], ["-m seed=0,1"]),
        (["trainer.max_steps=-3,-2"], ["trainer.max_steps=-3", "at least 0"]),
        (["keep=a", "cells=b"], ["keep=a"]),
    ],
)
def test_what_cannot_be_a_table(capsys, arguments, words):
    assert main(["table", *arguments]) == 2
    err = capsys.readouterr().err
    assert (
        err.startswith("error: ")
        and [word for word in words if word not in err] == []
        and not Path("outputs").exists()
    )


def test_a_recipe_knows_no_places_and_no_defaults():
    plain = ["experiment=hf-mini/base", "seed=1"]
    assert (
        recipe(compose([*plain, ROOT]))
        == recipe(compose(plain))
        == recipe(compose([*plain, "output_root=x", "dataset.source=local"]))
    )
    others = ["optimizer.lr=0.5", "seed=2", "model.padding=hf_compat", "dataset.test=[core-test]"]
    assert len({recipe(compose([*plain, *([] if one.startswith("seed") else [one])])) for one in others}) == 4


def test_it_is_quick_and_loads_no_torch(somewhere):
    write_run([*BASE, "seed=0"])
    code = (
        "import sys; from asr_exp.cli.main import main; main(sys.argv[1:]); print({'torch', 'transformers'} &"
        " {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "table", "experiment=hf-mini", ROOT, "seed=0,1,2"],
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "set()", done.stderr
