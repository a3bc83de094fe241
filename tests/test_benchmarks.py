"""The benchmarks: what they give the arms, what they count, when they call a row void; and one run of the
whole.
"""

import ast
import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gates, material, measure, probe, report
from benchmarks.__main__ import main
from benchmarks.arm import memory_of
from benchmarks.rows import ARMS, MODELS, QUICK, ROWS, Row

ROOT = Path(__file__).parents[1]
TRAIN = Row("some-train", "train", "tiny", "fp32", batch=4, steps=2, epochs=3)


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert {node.name: n for node in functions if (n := (node.end_lineno or 0) - node.lineno + 1) > 60} == {}


# ------------------------------------------------------------------------------------------------------------
# what the arms are given


def waste(seconds: np.ndarray) -> float:
    """The share of a batch that is padding, batches of eight in the order given."""
    batches = seconds.reshape(-1, 8)
    return 1 - batches.sum() / (8 * batches.max(axis=1)).sum()


@pytest.mark.parametrize(
    "shape, mean", [("librispeech", 11.95), ("common-voice", 4.11), ("timit", 3.06), ("mixed", 6.37)]
)
def test_clips_are_as_long_as_the_corpus_and_grouping_them_saves_what_it_saves_there(shape, mean):
    seconds = material.clip_seconds(shape, batch=8, steps=50)
    # the mean of the recordings whose deciles the shape has
    assert seconds.mean() == pytest.approx(mean, rel=0.05)
    assert waste(np.sort(seconds)) < 0.03 and waste(seconds) > 0.2


def test_a_manifest_holds_clips_of_the_lengths_asked_for(tmp_path):
    import soundfile

    pool = (1000 * np.sin(np.arange(16000))).astype(np.int16)
    path = material.make_manifest(tmp_path / "some.csv", np.array([0.5, 2.25]), pool)
    header, *rows = path.read_text().splitlines()
    assert header == "file,text" and len(rows) == 2
    assert [soundfile.info(tmp_path / row.split(",")[0]).duration for row in rows] == [0.5, 2.25]


@pytest.mark.parametrize("model", ["tiny", "small"])
def test_work_is_what_a_counter_of_operations_counts(model):
    import torch
    import transformers
    from torch.utils.flop_counter import FlopCounterMode

    config = transformers.Wav2Vec2Config(**MODELS[model], vocab_size=30)
    network = transformers.AutoModelForCTC.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.randn(1, 32000))
    assert probe.work(config, [2.0], training=False) == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert probe.work(config, [2.0], training=True) > 1.5 * counter.get_total_flops()


# ------------------------------------------------------------------------------------------------------------
# rounds


def ran(scale: float = 1.0, audio: float = 60.0) -> dict:
    """What an arm notes that was launched at 0, had imported at 2 and trained six steps, the first epoch's
    two by 10 x scale.
    """
    return {
        "launched": 0.0,
        "imported": 2.0,
        "steps": [1, 2, 4, 6],
        "ends": [2 + n * scale for n in (5, 8, 12, 16)],
        "memory": 100,
        "audio": audio,
        "optimiser_steps": 6,
    }


def test_figures_are_those_worked_out_by_hand():
    found = measure.figures(TRAIN, [ran()])
    assert found["start"] == 7 and found["start_after_imports"] == 5
    assert found["rate"] == 60 / 16 and found["steady_rate"] == pytest.approx(40 / 8)
    half = {"arms": {"ours": found, "hf": measure.figures(TRAIN, [ran(2.0)])}}
    assert (
        measure.ratio(TRAIN, "steady_rate", half, "hf") == 2
        and measure.ratio(TRAIN, "start_after_imports", half, "hf") == 2
    )


def test_memory_above_the_model_is_the_peak_less_what_was_there_before():
    row = next(one for one in ROWS if one.kind == "memory")
    small, large = ({"loaded": 70, "memory": peak} for peak in (90, 100))
    assert measure.figures(row, [small, large]) == {
        "memory": 100,
        "above": 30,
        "memory_tenth": 90,
        "growth": 10,
    }


def test_memory_is_that_of_this_process():
    import psutil

    block = b"1" * (200 * 2**20)
    assert memory_of("VmRSS") == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)
    del block
    assert memory_of("VmHWM") > memory_of("VmRSS") + 100 * 2**20


@pytest.fixture
def rounds(monkeypatch, tmp_path):
    """rounds(speeds) -> what `measure` makes of a row while the machine has these speeds, one for each arm;
    and the arms that ran.
    """

    def run(speeds: list[float]) -> tuple[dict, list[str]]:
        arms, probes = [], (speed for speed in speeds for _ in range(2))
        monkeypatch.setattr(measure, "run_arm", lambda task, scratch: arms.append(task.arm) or ran())
        monkeypatch.setattr(measure.Bench, "attention", lambda self, task: "sdpa")
        monkeypatch.setattr(measure.Bench, "clips", lambda self, *_, **__: (tmp_path, 20.0))
        monkeypatch.setattr(measure.Bench, "model", lambda self, name: tmp_path)
        monkeypatch.setattr(probe, "gemm", lambda *_: next(probes))
        return (
            measure.measure(TRAIN, measure.Bench(tmp_path, 2, 0.15, "mixed", None, lambda text: None)),
            arms,
        )

    return run


def test_arms_take_turns_and_a_disturbed_round_is_repeated(rounds):
    found, arms = rounds([1.0, 1.0, 1.0, 1.0, 0.8, 1.0, 1.0, 1.1, 1.0])
    assert arms == 3 * list(ARMS)
    assert len(found["rounds"]) == 2 and [round(one["drift"], 2) for one in found["rejected"]] == [0.25]


def test_a_machine_that_is_never_still_ends_in_a_void_row(rounds):
    found, arms = rounds(4 * [1.0, 2.0, 1.0])
    assert len(arms) == 4 * len(ARMS) and found["rounds"] == []
    assert "moved too much" in report.summary(TRAIN, found, PASSED)["void"]


# ------------------------------------------------------------------------------------------------------------
# gates and the page

PASSED = {name: {"passed": True, "says": "the same"} for name in gates.of_row(TRAIN)}


def measured(audio: float = 60.0) -> dict:
    arms = {
        arm: measure.figures(TRAIN, [ran(1.0 if arm == "ours" else 1.5, audio if arm == "ours" else 60.0)])
        for arm in ARMS
    }
    return {"rounds": [{"probes": [1e12], "drift": 0.0, "arms": arms}], "rejected": [], "attention": "sdpa"}


def test_a_row_counts_only_where_its_gates_pass_and_the_audio_is_the_same():
    assert report.summary(TRAIN, measured(), PASSED)["void"] == ""
    assert report.summary(TRAIN, measured(61.0), PASSED)["void"] == ""
    assert "audio of a step differs" in report.summary(TRAIN, measured(63.0), PASSED)["void"]
    for name in PASSED:
        failed = {**PASSED, name: {"passed": False, "says": "apart"}}
        assert report.summary(TRAIN, measured(), failed)["void"] == f"gate failed: {name}"


def test_the_page_shows_ratios_of_rows_that_count_and_the_reason_of_those_that_do_not(tmp_path):
    asked = {
        "settings": "tiny",
        "command": report.command(["rows=some-train", f"out={tmp_path}", f"speech={tmp_path}"]),
    }
    good = {**report.summary(TRAIN, measured(), PASSED), **asked, "date": "2026-01-01"}
    void = {**report.summary(TRAIN, measured(90.0), PASSED), **asked, "date": "2026-01-01"}
    made = {
        "gates": PASSED,
        "machine": probe.machine("cpu"),
        "versions": {"torch": "2"},
        "lengths": "mixed",
        "speech": "recordings",
        "rows": [good, void],
    }
    page = report.page(made)
    assert (
        "| some-train | audio-s/s, steady | 3.3 | 3.3 | 5.0 | 1.50 [1.50 .. 1.50] | 1.50 [1.50 .. 1.50] | 1 |"
        in page
    )
    assert page.count("**void**: audio of a step differs") == 1
    assert page.count("`python -m benchmarks rows=some-train speech=FOLDER` on 2026-01-01") == 1
    assert str(tmp_path) not in page and socket.gethostname() not in json.dumps(made)


def test_rows_measured_before_stay_where_they_are_of_the_same_machine_and_versions(tmp_path):
    def row(name: str, date: str) -> dict:
        return {
            **report.summary(TRAIN, measured(), PASSED),
            "row": name,
            "settings": "",
            "command": f"run {name}",
            "date": date,
        }

    empty = {
        "gates": {},
        "machine": probe.machine("cpu"),
        "versions": {"torch": "2"},
        "lengths": "mixed",
        "speech": "",
        "rows": [],
    }
    with pytest.raises(report.Unlike, match="there is no"):
        report.kept(tmp_path, empty, [])
    report.write(
        tmp_path, {**empty, "gates": PASSED, "rows": [row("start", "then"), row("base-bf16", "then")]}
    )
    made = report.kept(tmp_path, empty, [one for one in ROWS if one.name == "start"])
    assert made["gates"] == PASSED and [one["row"] for one in made["rows"]] == ["base-bf16"]
    report.write(tmp_path, {**made, "rows": [*made["rows"], row("start", "now"), row("base-fp32", "now")]})
    found = json.loads((tmp_path / "results.json").read_text())["rows"]
    # as in ROWS
    assert [(one["row"], one["date"]) for one in found] == [
        ("base-bf16", "then"),
        ("base-fp32", "now"),
        ("start", "now"),
    ]
    assert (
        "`run base-bf16` on then and `run base-fp32` on now and `run start` on now"
        in (tmp_path / "RESULTS.md").read_text()
    )
    with pytest.raises(report.Unlike, match="the versions of"):
        report.kept(tmp_path, {**empty, "versions": {"torch": "3"}}, [])


@pytest.mark.parametrize(
    "ours, passed", [([0.10, 0.12, 0.11], True), ([0.05, 0.06, 0.05], False), ([0.30, 0.31, 0.30], False)]
)
def test_learning_is_judged_against_the_noise_of_the_seeds(ours, passed):
    # Pooled deviation 0.01, three seeds a side: noise = 4.604 * 0.01 * sqrt(2 / 3) = 0.038; better is not the
    # same.
    assert (
        gates.judge({"hf": [0.11, 0.10, 0.12], "hf-tuned": [0.12, 0.11, 0.10], "ours": ours})["passed"]
        is passed
    )


@pytest.mark.parametrize(
    "wers, why", [([1.0, 1.0, 1.0], "nobody learned"), ([0.1, 0.9, 0.5], "too noisy to tell")]
)
def test_learning_that_shows_nothing_does_not_pass(wers, why):
    found = gates.judge({arm: wers for arm in ARMS})
    assert not found["passed"] and why in found["says"]


def test_gradients_that_differ_are_told_apart():
    theirs = {"a": np.array([3.0, 4.0]), "b": np.array([0.0])}
    assert gates._differences(theirs, theirs) == {"gradient": 0.0, "tensor": 0.0}
    found = gates._differences({"a": np.array([3.0, 4.5]), "b": np.array([0.001])}, theirs)
    # 0.001 of a floor of 0.005
    assert found["gradient"] == pytest.approx(0.1, rel=1e-3) and found["tensor"] == pytest.approx(0.2)


# ------------------------------------------------------------------------------------------------------------
# the command


@pytest.mark.parametrize(
    "word, told",
    [("rows=bf17", "base-bf16"), ("round=5", "rounds="), ("rounds=none", "rounds=5"), ("go", "drift=")],
)
def test_a_mistake_is_answered_in_a_sentence(word, told, capsys):
    assert main([word]) == 2
    assert told in capsys.readouterr().err


def test_help_lists_every_row_and_loads_nothing_heavy():
    code = (
        "import sys; from benchmarks.__main__ import main; main(['--help']); print([m for m in ('torch',"
        " 'numpy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout
    assert all(row.name in found for row in ROWS) and found.endswith("[]\n")


@pytest.mark.slow
def test_the_whole_from_gates_to_the_page(tmp_path):
    pytest.importorskip(
        "accelerate", reason="the Trainer of transformers needs accelerate: pip install 'asr_exp[benchmark]'"
    )
    pytest.importorskip("espeakng_loader")
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "quick=true",
        "drift=100",
        f"out={tmp_path}",
        f"scratch={tmp_path}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=900)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert [row["row"] for row in found["rows"]] == [row.name for row in QUICK] and all(
        gate["passed"] for gate in found["gates"].values()
    )
    train, scored = (row["medians"] for row in found["rows"])
    assert {arm: train[arm]["optimiser_steps"] for arm in ARMS} == dict.fromkeys(ARMS, 9)
    for row in (train, scored):
        assert max(row[arm]["audio"] for arm in ARMS) == pytest.approx(
            min(row[arm]["audio"] for arm in ARMS), rel=0.02
        )
        assert all(row[arm]["rate"] > 0 for arm in ARMS)
    assert (
        done.stdout.strip() == (tmp_path / "RESULTS.md").read_text().strip()
        and str(tmp_path) not in done.stdout
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["RESULTS.md", "results.json"]
