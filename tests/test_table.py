"""`table`: cells found among run folders, scores of different protocols apart, means, intervals and verdicts, and the pages of them."""

import csv
import io
import json
import math
import multiprocessing
import os
import re
import shlex
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from filelock import FileLock
from tables import write_experiments, write_run

from asr_exp.__main__ import main
from asr_exp.config import compose, run_folder, signature
from asr_exp.tables.cells import recipe
from asr_exp.tables.scores import Published, Score, interval, judge, verdict

ROOT = "dataset.root=/corpora/TIMIT"
BASE = ["experiment=hf-mini/base", ROOT]


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_experiments(tmp_path / "conf", ("base", "sew"))
    return tmp_path


def table(capsys, *arguments, status=0):
    """`asr_exp table ARGUMENTS` -> what it printed, and the rows of table.csv by their label (the last where there are several)."""
    assert main(["table", *arguments]) == status
    out = capsys.readouterr().out
    found = sorted(Path("outputs/tables").glob("*/table.csv"), key=lambda path: path.stat().st_mtime_ns)
    return out, list(csv.DictReader(found[-1].open(newline=""))) if found else []


def row(rows, label, column="", protocol=None):
    (one,) = [r for r in rows if (r["row"], r["column"]) == (label, column) and protocol in (None, r["protocol"])]
    return one


# ---------------------------------------------------------------------------------------------------------------------
# what has become of a cell


def test_a_table_of_experiments_has_all_its_rows(capsys, somewhere):
    write_experiments(somewhere / "conf")
    write_run([*BASE, "seed=0"], 0.22, [0.21, 0.23])
    out, rows = table(capsys, "experiment=hf-mini", ROOT, "seed=0")
    assert [r["row"] for r in rows] == ["base", "distil", "large", "sew"] and [r["status"] for r in rows] == ["finished"] + 3 * ["missing"]
    one = row(rows, "base")
    assert (float(one["ours"]), float(one["ci95_low"]), float(one["ci95_high"])) == (0.22, 0.21, 0.23)
    assert (one["published"], one["published_hardware"], one["published_time"]) == ("0.2151", "1 TITAN RTX", "32 min")
    assert (one["hardware"], one["seconds"], one["coverage"]) == ("2 x NVIDIA H200", "1900.0", "1.0")
    assert float(one["difference"]) == pytest.approx(0.0049) and one["verdict"] == "as published"
    assert one["command"] == f"python -m asr_exp experiment=hf-mini/base {ROOT} seed=0" in out
    assert "22.00 [21.00, 23.00]" in out and "+0.49" in out and "31.7 min" in out and "inferred: schedule.warmup_steps" in out
    assert one["protocol_hash"] in out and max(map(len, out.splitlines())) <= 100


def test_cells_have_the_signatures_of_their_runs(capsys):
    table(capsys, "experiment=hf-mini", ROOT, "seed=0,1", "optimizer.lr=1e-4,0.001", "trainer.patience=null,3", "text=hf_compat,standard",
          "rows=[experiment,optimizer.lr,trainer.patience,text]")
    cells = list(csv.DictReader(io.StringIO(Path("outputs/tables/hf-mini/cells.csv").read_text())))
    assert len(cells) == 2 * 2**4 == len({cell["signature"] for cell in cells})
    for cell in cells[::5]:
        assert cell["signature"] == signature(compose([*cell["cell"].split(), ROOT]))


def test_failed_and_stopped_cells_say_why(capsys):
    write_run([*BASE, "seed=0"], status="failed", reason="OutOfMemoryError: CUDA out of | memory\n<b>")
    write_run([*BASE, "seed=1"], status="stopped", reason="Stopped: at step 300")
    write_run([*BASE, "seed=2"], 0.21)
    out, rows = table(capsys, "experiment=hf-mini/base", ROOT, "seed=0,1,2,3")
    assert "seed 0 failed (OutOfMemoryError: CUDA out of | memory <b>)" in rows[0]["notes"]
    assert "seed 1 stopped (Stopped: at step 300)" in rows[0]["notes"] and "seed 3 missing" in rows[0]["notes"]
    assert (rows[0]["runs"], rows[0]["runs_asked"], rows[0]["ours"]) == ("1", "4", "0.21")
    assert "1 of 4" in out and "\\| memory &lt;b>" in out and "<b>" not in Path("outputs/tables/hf-mini-base/table.html").read_text()


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
    for path in folder.iterdir():
        os.utime(path, (time.time() - 7200,) * 2)
    _, rows = table(capsys, "experiment=hf-mini/base", ROOT, "seed=0")
    assert rows[0]["status"] == "stopped" and "before its first step" in rows[0]["notes"]
    (folder / "result.json").write_text('{"status": "fin')
    _, rows = table(capsys, "experiment=hf-mini/base", ROOT, "seed=0")
    assert rows[0]["status"] == "stale" and "cannot be read" in rows[0]["notes"]


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda f: edit(f, signature="0123456789"), "signature 0123456789"),
    (lambda f: edit(f, versions={"asr_exp": "7.2.0"}), "made by asr_exp 7.2.0"),
    (lambda f: (f / "config.yaml").write_text((f / "config.yaml").read_text().replace("seed: 0", "seed: 5")), "config.yaml has the"),
    (lambda f: (f / "config.yaml").unlink(), "config.yaml is gone"),
    (lambda f: (f / "config.yaml").write_text("gone: 3\n"), "does not fit this version"),
    (lambda f: edit(f, splits={"test": {"wer": None, "per": 0.3}}), "no WER of the test split"),
    (lambda f: edit(f, protocol={}), "by which protocol"),
    (lambda f: f.rename(f.with_name("aaaaaaaaaa")), "aaaaaaaaaa asked for the same"),
])  # fmt: skip
def test_a_stale_cell_says_what_does_not_fit(capsys, spoil, words):
    spoil(write_run([*BASE, "seed=0"]))
    _, rows = table(capsys, "experiment=hf-mini/base", ROOT, "seed=0")
    assert rows[0]["status"] == "stale" and words in rows[0]["notes"] and rows[0]["ours"] == ""


def edit(folder, **parts):
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))


# ---------------------------------------------------------------------------------------------------------------------
# numbers


def score(value, ci95=None, degrees=None, coverage=1.0, split=("test",)):
    return Score("wer", value, ci95, degrees, coverage, 100, {"hash": "x", "split": list(split)})


def test_the_mean_of_seeds_and_its_interval(capsys):
    # By hand: the variance of the mean over seeds is ((1/75)^2 + (1/300)^2 + (1/60)^2) / 2 / 3 = 7.7778e-5, with 2 degrees of freedom;
    # that over 3 speakers is made the same, with 2, where Student's 97.5 % quantile is 4.30265. Together they have 4, where it is 2.77645.
    variance = 7.7777777e-5
    half = 4.30265 * math.sqrt(variance)
    for seed, rate in enumerate((0.20, 0.21, 0.23)):
        write_run([*BASE, f"seed={seed}"], rate, [rate - half, rate + half], speakers=3)
    _, rows = table(capsys, "experiment=hf-mini/base", ROOT, "seed=0,1,2")
    assert float(rows[0]["ours"]) == pytest.approx(0.64 / 3)
    assert float(rows[0]["ci95_high"]) - float(rows[0]["ours"]) == pytest.approx(2.77645 * math.sqrt(2 * variance), rel=1e-4)
    assert float(rows[0]["ours"]) - float(rows[0]["ci95_low"]) == pytest.approx(2.77645 * math.sqrt(2 * variance), rel=1e-4)


def test_intervals_of_what_there_is():
    assert interval([]) is None and interval([score(0.2)]) is None and interval([score(0.2, (0.1, 0.4))]) == (0.1, 0.4)
    low, high = interval([score(0.20), score(0.22)])  # of seeds alone: 0.01 * t(1) = 0.01 * 12.706
    assert (high - low) / 2 == pytest.approx(0.12706, rel=1e-3)
    low, high = interval([score(0.2, (0.19, 0.21), 999)] * 2)  # the same to the last digit: speakers alone
    assert (low, high) == pytest.approx((0.19, 0.21))
    low, high = interval([score(0.02, (0.0, 0.2), 3)] * 2 + [score(0.02)])  # cut off at 0, and with a run that has none
    assert (low, high) == pytest.approx((0.0, 0.2))
    assert interval([score(0.2), score(0.2)]) is None


@pytest.mark.parametrize(("ours", "within", "word"), [
    (0.200, (0.19, 0.21), "as published"), (0.210, (0.205, 0.215), "as published"), (0.190, (0.185, 0.195), "as published"),
    (0.2101, (0.2051, 0.2151), "worse"), (0.1899, (0.185, 0.195), "better"),
    (0.215, (0.199, 0.231), "cannot tell"), (0.215, (0.200, 0.230), "cannot tell"), (0.185, (0.169, 0.201), "cannot tell"),
    (0.200, (0.17, 0.23), "cannot tell"), (0.200, (0.18, 0.22), "as published"), (0.1, (0.05, 0.15), "cannot tell"),
    (0.205, None, "as published"), (0.25, None, "cannot tell"),
])  # fmt: skip
def test_verdicts_at_the_edges_of_the_tolerance(ours, within, word):
    found, why = verdict(ours, within, 0.2, 0.01)
    assert found == word and bool(why) == (word == "cannot tell")


def test_no_verdict_on_another_split_or_a_part_of_one():
    published = Published(0.2, split="dev-clean")
    assert judge([score(0.2, split=["dev-clean"])], published) == ("as published", "")
    assert judge([score(0.2, split=["test-clean"])], published)[0] == "cannot tell"
    assert "97.0 %" in judge([score(0.2, split=["dev-clean"], coverage=0.97)], published)[1]
    assert judge([score(0.2)], Published()) == ("", "") == judge([], published)


# ---------------------------------------------------------------------------------------------------------------------
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
    assert "Not to be compared with A: it differs in padding." in out and "Not to be compared with A: it differs in utterances." in out
    tables = [part.splitlines() for part in re.findall(r"(?:^\|.*\n)+", out, flags=re.MULTILINE)]
    assert [sum("20.00" in line or "24.00" in line or "30.00" in line for line in lines) for lines in tables[:3]] == [1, 1, 1]


def test_a_protocol_whose_hash_was_edited_equals_no_other(capsys):
    write_run([*BASE, "seed=0"], 0.20)
    folder = write_run(["experiment=hf-mini/sew", ROOT, "seed=0"], 0.30)
    edit(folder, protocol=json.loads((folder / "result.json").read_text())["protocol"] | {"hash": "feedfeedfeed"})
    out, rows = table(capsys, "experiment=hf-mini", ROOT, "seed=0")
    assert row(rows, "base")["protocol"] != row(rows, "sew")["protocol"] and "differs in its hash alone" in out


def test_a_grid_parts_a_column_by_protocol(capsys):
    common = [ROOT, "seed=0"]
    for model, rate in (("tiny", 0.5), ("distilhubert", 0.4)):
        write_run([f"model={model}", "dataset=timit", *common], rate)
        other = {"ids": "5678" if model == "tiny" else "9999"}
        write_run([f"model={model}", "dataset=librispeech-100h", *common], rate / 2, of_protocol=other)
    models, datasets = "model=tiny,distilhubert,hubert-base", "dataset=timit,librispeech-100h"
    arguments = ["rows=model", "columns=dataset", "mean_over=seed", models, datasets, *common]
    out, rows = table(capsys, *arguments)
    header, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("|")]
    assert header == ["model", "timit (A)", "librispeech-100h (B)", "librispeech-100h (C)"]
    assert [line[0] for line in body[:3]] == ["tiny", "distilhubert", "hubert-base"]
    shown = [[cell.split(" [")[0] for cell in line[1:]] for line in body[:3]]
    assert shown == [["50.00", "25.00", ""], ["40.00", "", "20.00"], ["missing", "missing", ""]]
    assert "Not to be compared with B: it differs in utterances." in out and row(rows, "tiny", "timit")["protocol"] == "A"
    # Turned around, the rows carry the corpora.
    out, _ = table(capsys, *[a.replace("rows=model", "rows=dataset").replace("columns=dataset", "columns=model") for a in arguments])
    first = [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("|")]
    assert first[2:5] == ["timit (A)", "librispeech-100h (B)", "librispeech-100h (C)"]


def test_keys_that_are_neither_row_nor_column_nor_mean_make_rows(capsys):
    write_run(["optimizer.lr=0.001", "seed=0"], 0.3)
    out, rows = table(capsys, "optimizer.lr=0.001,0.002", "seed=0", "name=rates")
    assert [r["row"] for r in rows] == ["0.001", "0.002"] and "| optimizer.lr |" in out
    _, rows = table(capsys, "optimizer.lr=0.001,0.002", "model=tiny,distilhubert", "seed=0,1")
    assert rows[0]["row"] == "optimizer.lr 0.001, tiny" and len(rows) == 4
    _, rows = table(capsys, "seed=0")
    assert [r["row"] for r in rows] == ["demo/tiny"]


def test_a_row_that_cannot_be_does_not_take_the_others_with_it(capsys, somewhere):
    write_run([*BASE, "seed=0"])
    (somewhere / "conf/experiment/hf-mini/sew.yaml").write_text("# @package _global_\ntrainer: {lrr: 3}\n")
    _, rows = table(capsys, "experiment=hf-mini", ROOT, "seed=-1,0")
    assert row(rows, "base")["status"] == "finished" and "seed -1 failed (seed=-1 is too small" in row(rows, "base")["notes"]
    assert row(rows, "sew")["status"] == "failed" and "sew.yaml: trainer.lrr is not a key" in row(rows, "sew")["notes"]


@pytest.mark.parametrize(("arguments", "words"), [
    (["experiment=hf-mni"], ["hf-mni"]),
    (["rows=modle", "model=tiny,hf"], ["rows=modle", "'model'"]),
    (["rows=model", "columns=model", "model=tiny,hf"], ["model cannot be in two"]),
    (["check=true"], ["into="]), (["cells=nowhere.csv"], ["nowhere.csv"]), (["into=nowhere.md"], ["nowhere.md"]),
    (["trainer.lrr=1,2"], ["trainer.lrr is not a key"]), (["split=dev"], ["split=dev"]),
    (["optimizer.lr=interval(1,2)"], ["list of values"]),
    (["trainer.max_steps=-3,-2"], ["trainer.max_steps=-3", "at least 0"]), (["keep=a", "cells=b"], ["keep=a"]),
])  # fmt: skip
def test_what_cannot_be_a_table(capsys, arguments, words):
    assert main(["table", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and [word for word in words if word not in err] == [] and not Path("outputs").exists()


# ---------------------------------------------------------------------------------------------------------------------
# pages


class Page(HTMLParser):
    """Every tag is closed by its own, and nothing is fetched."""

    def __init__(self):
        super().__init__()
        self.open, self.texts, self.fetched = [], [], []

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if name in ("src", "href", "data", "action")] + [tag] * (tag in ("script", "link"))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in ("line", "rect", "circle")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize("layout", [[], ["rows=experiment", "columns=text", "text=hf_compat,standard"]])
def test_the_page_is_whole_and_alone(capsys, somewhere, layout):
    path = somewhere / "conf/experiment/hf-mini/sew.yaml"
    path.write_text(path.read_text().replace("https://example.org/models", "'<script>alert(1)</script> & \"so\"'"))
    write_run([*BASE, "seed=0"], 0.2)
    write_run(["experiment=hf-mini/sew", ROOT, "seed=0"], status="failed", reason="</td><script>")
    table(capsys, "experiment=hf-mini", ROOT, "seed=0", *layout)
    text = Path("outputs/tables/hf-mini/table.html").read_text()
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == [] and page.fetched == [] and "url(" not in text and "@import" not in text
    assert "http" not in text and "example.org/models" in text and "prefers-color-scheme: dark" in text
    said = " ".join(page.texts)
    assert "hf-mini" in said and "20.00" in said and "</td><script>" in said and "<script>alert(1)</script>" in said


def test_long_commands_are_folded_as_a_shell_takes_them(capsys):
    words = [f"{key}=0.001,0.002" for key in ("optimizer.lr", "optimizer.weight_decay")]
    words += [f"{key}=false" for key in ("trainer.gradient_checkpointing", "trainer.shortest_first", "model.freeze_front_end")]
    out, rows = table(capsys, *words, "seed=0")
    (block,) = re.findall(r"```bash\n(.*?)```", out, flags=re.DOTALL)
    assert max(map(len, block.splitlines())) <= 96
    assert shlex.split(block.replace("\\\n", "")) == ["python", "-m", "asr_exp", "-m", *words, "seed=0"]


def test_csv_reads_back(capsys):
    write_run([*BASE, "seed=0"], 1 / 3, [0.1 + 0.2, 0.4])
    out, rows = table(capsys, "experiment=hf-mini", ROOT, "seed=0,1")
    assert float(rows[0]["ours"]) == 1 / 3 and float(rows[0]["ci95_low"]) == 0.1 + 0.2
    cells = list(csv.DictReader(io.StringIO(Path("outputs/tables/hf-mini/cells.csv").read_text())))
    assert float(cells[0]["value"]) == 1 / 3 and json.loads(cells[0]["protocol"])["dataset"] == "timit"


# ---------------------------------------------------------------------------------------------------------------------
# tables that are kept


PAGE = "# Mine\n\n<!-- asr_exp table hf-mini -->\n<!-- end -->\n\nafter\n<!-- asr_exp table other -->\nleft alone\n<!-- end -->\n"


def test_a_block_of_a_page_is_written_and_checked(capsys, somewhere):
    for seed in (0, 1):
        write_run([*BASE, f"seed={seed}"], 0.2 + seed / 100)
    page = somewhere / "README.md"
    page.write_text(PAGE)
    again = ["table", "experiment=hf-mini", "seed=0,1", "cells=kept/hf-mini.csv", "into=README.md"]
    assert main(["table", "experiment=hf-mini", "seed=0,1", ROOT, "keep=kept/hf-mini.csv", "into=README.md"]) == 0
    text = page.read_text()
    assert text.startswith("# Mine\n\n<!-- asr_exp table hf-mini -->\n") and text.endswith(PAGE[PAGE.index("<!-- end -->") :])
    assert "20.50" in text and "dataset.root=FOLDER" in text and "/corpora" not in text
    assert f"`{' '.join(['python -m asr_exp', *again])}`" in text  # what the block says of itself is what makes it

    for path in somewhere.glob("outputs/*/*/*/result.json"):
        path.unlink()  # the kept cells are enough
    assert main([*again, "check=true"]) == 0 and main(again) == 0 and page.read_text() == text
    page.write_text(text.replace("20.50", "19.50"))
    assert main([*again, "check=true"]) == 1
    told = capsys.readouterr()
    assert "19.50" in told.out and "hf-mini of README.md" in told.err and "19.50" in page.read_text()
    assert main(again) == 0 and page.read_text() == text


def test_kept_cells_of_another_recipe_are_stale(capsys, somewhere):
    write_run([*BASE, "seed=0"], 0.2)
    table(capsys, "experiment=hf-mini", ROOT, "seed=0", "keep=kept.csv")
    _, rows = table(capsys, "experiment=hf-mini", "seed=0", "cells=kept.csv")
    assert (row(rows, "base")["status"], row(rows, "base")["ours"]) == ("finished", "0.2")
    path = somewhere / "conf/experiment/hf-mini/base.yaml"
    path.write_text(path.read_text() + "optimizer: {lr: 0.5}\n")
    _, rows = table(capsys, "experiment=hf-mini", "seed=0,9", "cells=kept.csv")
    assert "seed 0 stale (its recipe is not that of kept.csv" in row(rows, "base")["notes"] and row(rows, "base")["ours"] == ""
    assert "seed 9 missing (not in kept.csv)" in row(rows, "base")["notes"]


def test_a_recipe_knows_no_places_and_no_defaults():
    plain = ["experiment=hf-mini/base", "seed=1"]
    assert recipe(compose([*plain, ROOT])) == recipe(compose(plain)) == recipe(compose([*plain, "output_root=x", "dataset.source=local"]))
    others = ["optimizer.lr=0.5", "seed=2", "model.padding=hf_compat", "dataset.test=[core-test]"]
    assert len({recipe(compose([*plain, *([] if one.startswith("seed") else [one])])) for one in others}) == 4


@pytest.mark.parametrize("page", ["", "<!-- asr_exp table hf-mini -->\nno end", PAGE + PAGE,
                                  "<!-- asr_exp table hf-mini -->\n<!-- asr_exp table b -->\n<!-- end -->"])
def test_a_page_without_one_block(capsys, somewhere, page):
    (somewhere / "page.md").write_text(page)
    assert main(["table", "experiment=hf-mini", "into=page.md"]) == 2
    assert "<!-- asr_exp table hf-mini -->" in capsys.readouterr().err and (somewhere / "page.md").read_text() == page


@pytest.mark.parametrize("page", ["README.md"])
def test_our_own_pages_hold_what_their_data_say(capsys, monkeypatch, page):
    root = Path(__file__).parents[1]
    monkeypatch.chdir(root)
    text = (root / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^<!-- asr_exp table \S+ -->\n(.*?)^<!-- end -->", text, flags=re.DOTALL | re.MULTILINE)
    commands = re.findall(r"^Made by `python -m asr_exp (.*)`\.$", "".join(blocks), flags=re.MULTILINE)
    assert len(commands) == sum(bool(block.strip()) for block in blocks), "a block was written by hand"
    for command in commands:
        assert main([*shlex.split(command), "check=true"]) == 0, capsys.readouterr().out
    if not commands:
        pytest.skip(f"{page} has no table of results yet")


# ---------------------------------------------------------------------------------------------------------------------
# the process


def test_it_is_quick_and_loads_no_torch(somewhere):
    write_run([*BASE, "seed=0"])
    code = "import sys; from asr_exp.__main__ import main; main(sys.argv[1:]); print({'torch', 'transformers'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code, "table", "experiment=hf-mini", ROOT, "seed=0,1,2"], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_a_run_and_its_cell_meet(somewhere):
    assert run_folder(compose([*BASE, "seed=0"])) == write_run([*BASE, "seed=0"])
