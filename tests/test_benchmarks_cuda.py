"""The benchmark of a card: its processes, what its tests catch, its page; and the whole of it on a CPU
and on a device that is not there.
"""

import ast
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_cuda import needs_fake_cuda, on_fake_cuda

from asr_exp.core.log import logging_to_terminal
from benchmarks.cuda import ctc, hf, networks, numerics, ranks, report
from benchmarks.cuda.__main__ import main
from benchmarks.cuda.names import NAMES
from benchmarks.cuda.page import page
from benchmarks.cuda.parts import Attempt, Bench, Outcome, Part, check, groups, run_group
from benchmarks.cuda.summary import goals

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "benchmarks/cuda").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert {node.name: n for node in functions if (n := (node.end_lineno or 0) - node.lineno + 1) > 60} == {}


def test_every_part_has_a_budget_and_all_of_them_fit_into_eight_minutes():
    assert set(report.BUDGETS) == set(NAMES)
    made = [Part(name, "", lambda bench: iter(()), *report.BUDGETS[name]) for name in NAMES]
    # the longest of those that run side by side
    assert sum(max(part.seconds for part in group) for group in groups(made)) <= 460  # and the imports


# ------------------------------------------------------------------------------------------------------------
# parts in processes


def rows_then_error(bench):
    yield {"what": "one"}
    raise KeyError("the second")


def rows_then_death(bench):
    yield {"what": "one"}
    os.kill(os.getpid(), signal.SIGKILL)


def rows_then_hang(bench):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield {"what": child.pid}
    time.sleep(60)


def warns(bench):
    with logging_to_terminal(False, 0):
        logging.getLogger("asr_exp.training.loop").warning("look at %s", "this")
        logging.getLogger("asr_exp.training.loop").info("not at this")
    logging.getLogger("asr_exp").warning("and that")
    yield {}


def fine(bench):
    yield {"what": bench.device, "found": bench.left}


def outcomes(tmp_path, *runs, alone=True, seconds=20.0, end=60.0, changed=lambda now: None):
    made = [Part(run.__name__, "", run, seconds, alone) for run in runs]
    found = []
    for group in groups(made):
        found += run_group(group, Bench("cpu", True, tmp_path), time.monotonic() + end, changed)
    return found


def test_a_part_that_fails_or_dies_keeps_its_rows_and_the_next_goes_on(tmp_path):
    error, death, good = outcomes(tmp_path, rows_then_error, rows_then_death, fine)
    assert [one.status for one in (error, death, good)] == ["failed", "failed", "done"]
    assert [one.rows for one in (error, death)] == [[{"what": "one"}]] * 2
    assert "KeyError: 'the second'" in error.traceback and "rows_then_error" in error.traceback
    assert "-9" in death.traceback
    assert 0 < good.rows[0]["found"] < 20


def test_a_part_that_hangs_is_ended_with_what_it_has_started(tmp_path):
    (cut,) = outcomes(tmp_path, rows_then_hang, seconds=1.5)
    assert cut.status == "cut" and 1.5 <= cut.seconds < 10
    child = Path(f"/proc/{cut.rows[0]['what']}/stat")
    assert not child.exists() or child.read_text().split()[2] == "Z"


def test_parts_side_by_side_end_each_in_its_own_time(tmp_path):
    seen = []
    found = outcomes(
        tmp_path, rows_then_hang, fine, alone=False, seconds=1.5, changed=lambda now: seen.append(len(now))
    )
    assert [one.status for one in found] == ["cut", "done"]
    assert set(seen) == {2}
    assert found[1].seconds < 1.5


def test_a_part_begins_no_more_where_no_time_is_left(tmp_path):
    (late,) = outcomes(tmp_path, fine, end=1.0)
    assert late.status == "left out" and late.rows == []


def test_what_asr_exp_warns_of_is_kept(tmp_path):
    (one,) = outcomes(tmp_path, warns)
    assert one.status == "done" and one.warnings == ["look at this", "and that"]


def test_groups_are_of_neighbours_that_need_not_be_alone():
    made = [Part(name, "", fine, 1.0, name.isupper()) for name in ("a", "b", "C", "D", "e")]
    assert [[part.name for part in group] for group in groups(made)] == [["a", "b"], ["C"], ["D"], ["e"]]


def test_a_run_that_is_killed_has_left_what_it_found(tmp_path):
    """The files are written after each row, whole."""
    bench, part = Bench("cpu", True, tmp_path), Part("ctc", "some", fine, 1.0)
    for number in range(3):
        rows = [{"what": "x", "found": float("nan"), "holds": False}] * number
        report.write(tmp_path, [Outcome(part, "running", 1.0, rows)], bench, time.monotonic())
        kept = json.loads((tmp_path / "cuda.json").read_text())["parts"]["ctc"]
        assert len(kept["rows"]) == number and kept["status"] == "running"
        assert all(row["found"] is None for row in kept["rows"])
    assert not list(tmp_path.glob("*.new"))


def test_no_import_asks_for_the_card():
    """A process that has asked the driver cannot be forked by parts that use it."""
    program = """
import sys, torch
def asked(*_): sys.exit("the card was asked for")
torch._C._cuda_getDeviceCount = torch._C._cuda_init = asked
from benchmarks.cuda.names import NAMES
from benchmarks.cuda.report import parts_of
print(len(parts_of(list(NAMES))))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTORCH_NVML_BASED_CUDA_CHECK": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and int(done.stdout) == len(NAMES), done.stderr


# ------------------------------------------------------------------------------------------------------------
# what is found


def test_checks_hold_or_do_not():
    assert check("x", 1e-5, 1e-4)["holds"] and not check("x", 2e-4, 1e-4)["holds"]
    assert check("x", 0.995, 0.99, below=False)["holds"] and not check("x", 0.9, 0.99, below=False)["holds"]
    assert not check("x", float("nan"), 1e-4)["holds"]
    assert not check("x", float("nan"), 0.9, below=False)["holds"]


def test_numerics_hold_on_a_cpu_and_not_with_other_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(numerics, "FAMILIES", [("wavlm", "layer")])
    bench = Bench("cpu", False, tmp_path)
    rows = list(numerics.run(bench))
    assert len(rows) == 5 and all(row["holds"] for row in rows)
    built = numerics.network
    calls = []

    def one_weight_off(*arguments):
        model = built(*arguments)
        calls.append(model)
        if len(calls) == 1:  # the one that goes to the device
            with torch.no_grad():
                model.network.lm_head.weight.mul_(1.01)
                model.backbone.encoder.layers[1].attention.v_proj.weight.neg_()
        return model

    monkeypatch.setattr(numerics, "network", one_weight_off)
    broken = {row["what"]: row for row in numerics.run(bench) if row["precision"] == "fp32"}
    assert not broken["logits, of the largest"]["holds"]
    assert not broken["gradient, the least cosine of a tensor"]["holds"]
    assert broken["packed against alone, of the largest logit"]["holds"]


def test_a_loss_or_a_gradient_that_is_a_little_off_does_not_hold(tmp_path, monkeypatch):
    bench = Bench("cpu", True, tmp_path)
    assert all(row.get("holds", True) for row in ctc.run(bench))
    right = ctc.ctc_losses
    monkeypatch.setattr(ctc, "ctc_losses", lambda *arguments: right(*arguments) * 1.0001)
    wrong = [row for row in ctc.run(bench) if "holds" in row]
    assert sum(not row["holds"] for row in wrong) > len(wrong) * 0.8


def test_a_sum_of_gradients_that_is_off_does_not_hold(tmp_path, monkeypatch):
    class Doubled(ranks.GradientSum):
        def finish(self):
            super().finish()
            for parameter in self.parameters:
                parameter.grad *= 1.001

    monkeypatch.setattr(ranks, "GradientSum", Doubled)
    (found,) = outcomes(tmp_path, ranks.run, seconds=100.0, end=100.0)  # in a process: it makes a group
    assert found.status == "done", found.traceback
    assert [row["holds"] for row in found.rows] == [True, False, True], found.rows


def test_batches_of_transformers_hold_every_clip_and_keep_their_size():
    seconds = networks.clip_seconds(3000.0)
    assert sum(seconds) == pytest.approx(3000.0, rel=0.05)
    for batches in (list(hf._grouped(seconds)), hf._by_size(seconds, 200.0)):
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(seconds)))
    assert all(len(one) * seconds[one].max() <= 200.0 for one in hf._by_size(seconds, 200.0))
    assert max(map(len, hf._grouped(seconds))) == hf.CLIPS


def test_what_warms_up_is_not_timed_and_the_rest_lasts_as_long_as_asked(tmp_path):
    timer, counted = networks.Timer(Bench("cpu", True, tmp_path), 0.5), []
    while not timer.over:
        time.sleep(0.4 if len(counted) == 0 else 0.05)
        counted.append(timer.count())
    assert counted[:2] == [False, False] and all(counted[2:]) and timer.counted == len(counted) - 2
    assert 0.4 <= timer.first < 1 and 0.05 * timer.counted <= timer.seconds < 1.5
    assert 4 <= timer.counted <= 11
    short = networks.Timer(Bench("cpu", True, tmp_path, time.monotonic() + 0.2), 60.0)
    while not short.over:
        time.sleep(0.05)
        short.count()
    assert short.seconds < 1


def test_noise_is_of_the_lengths_asked_for_and_each_clip_always_the_same():
    split = networks.noise_split(np.array([1.0, 2.5]))
    first, second = split.clips([0, 1])
    assert (len(first), len(second)) == (16000, 40000) and not np.array_equal(first, second[:16000])
    assert np.array_equal(split.clips([1])[0], second)
    assert 10 <= len(split.labels(0)) <= 14 and len(split.tokenizer) == 30


# ------------------------------------------------------------------------------------------------------------
# goals and page


def found(train: float, tuned: float, **more) -> dict:
    rows = [
        {"network": "base", "arm": "ours", "device_seconds": 400, "rate": train / 2},
        {"network": "base", "arm": "ours", "device_seconds": 2000, "rate": train},
        {"network": "base", "arm": "ours", "device_seconds": 100, "failed": "RuntimeError: <no>"},
    ]
    hf_rows = [{"network": "base", "arm": "hf-tuned", "pass_seconds": 400, "rate": tuned}]
    return {
        name: {"title": name, "status": "done", "seconds": 1.0, "rows": some, **more}
        for name, some in (("train", rows), ("hf", hf_rows))
    }


def test_goals_go_by_the_fastest_row_and_are_met_or_not():
    said = {one["goal"].partition(" ≥")[0]: one["met"] for one in goals(found(7100.0, 3600.0))}
    assert said["training, base: audio-s/s"] is True
    assert said["training, base: times transformers tuned"] is False  # 1.97
    assert said["scoring, base: RTFx, the faster precision"] is None
    assert goals(found(6999.0, 3000.0))[0]["met"] is False


def test_the_page_hides_nothing():
    parts_found = found(6999.0, 3000.0)
    parts_found["environment"] = {
        "title": "",
        "status": "done",
        "seconds": 1.0,
        "rows": [{"what": "card", "found": "Some Card"}],
    }
    parts_found["ranks"] = {
        "title": "ranks",
        "status": "failed",
        "seconds": 1.0,
        "rows": [],
        "traceback": "Error: it <broke>",
    }
    made = {"device": "cuda", "quick": False, "date": "2000-01-01", "seconds": 9.0, "parts": parts_found}
    text = page({**made, "goals": goals(parts_found)})
    assert "asr_exp on Some Card" in text
    assert '<span class="badge no">not met</span>' in text and "not measured" in text
    assert "it &lt;broke&gt;" in text and "Not to its end: ranks." in text
    assert "RuntimeError: &lt;no&gt;" in text
    assert text.count("<rect") == 3 and "goal 7,000" in text  # what failed has no bar
    assert "prefers-color-scheme: dark" in text


def test_a_row_that_failed_says_so_and_what_follows_goes_on():
    attempt = Attempt(network="base")
    with attempt:
        raise ValueError("too much")
    assert attempt.failed and attempt.row["failed"] == "ValueError: too much"
    with pytest.raises(KeyboardInterrupt), Attempt():
        raise KeyboardInterrupt


@pytest.mark.parametrize("words", [["--parts", "none"], ["--device", "tpu"], ["--what"]])
def test_a_wrong_argument_is_named(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert words[-1] in capsys.readouterr().err


def test_help_names_parts_and_wheels(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in NAMES) and "hydra-core" in out


# ------------------------------------------------------------------------------------------------------------
# the whole


@pytest.mark.slow
def test_the_whole_on_a_cpu(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.cuda",
            "--quick",
            "--device=cpu",
            "--seconds=1500",
            f"--out={tmp_path}",
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1600,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    made = json.loads((tmp_path / "cuda.json").read_text())
    assert list(made["parts"]) == list(NAMES)
    assert {part["status"] for part in made["parts"].values()} == {"done"}
    assert all(row["holds"] for part in made["parts"].values() for row in part["rows"] if "holds" in row)
    assert "This run had no GPU" in (tmp_path / "cuda.html").read_text()


@needs_fake_cuda
@pytest.mark.slow
def test_the_whole_on_a_device_that_is_not_there(tmp_path):
    """Its numbers mean nothing, so that tests of numbers do not hold; but every part gets to its end."""
    done = on_fake_cuda(
        "-m", "benchmarks.cuda", "--quick", "--seconds=1500", f"--out={tmp_path}", check=False, timeout=1600
    )
    made = json.loads((tmp_path / "cuda.json").read_text())
    assert {name: part["status"] for name, part in made["parts"].items()} == dict.fromkeys(NAMES, "done")
    rows = [row for part in made["parts"].values() for row in part["rows"]]
    # the stand-in has not all of the driver that the code of Inductor asks for
    failed = [row for row in rows if "failed" in row and row.get("key") != "trainer.compile=true"]
    assert failed == [], done.stderr[-4000:]
    assert all(row["syncs"] < 100 and row["peak_gib"] > 0 for row in made["parts"]["train"]["rows"])
    facts = {row["what"]: row["found"] for row in made["parts"]["environment"]["rows"]}
    assert f"asr_exp on {facts['card']}" in (tmp_path / "cuda.html").read_text()
