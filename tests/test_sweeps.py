"""Sweeps: what they record, that a search resumes and shares its study, what it prunes, and the pictures. Training is played by a
stand-in where it may be."""

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import harness
import optuna
import pytest
import yaml

from asr_exp import __main__ as cli
from asr_exp.config import run_folder, signature
from asr_exp.errors import Pruned, UserError
from asr_exp.sweeps.ranges import Range, split_overrides

LR = "optimizer.lr=tag(log, interval(1e-5, 1e-3))"
SEARCH = ["-m", "sweeper=optuna", "sweep.name=s"]
EXTRAS = {"joblib": "hydra_plugins.hydra_joblib_launcher", "submitit_local": "hydra_plugins.hydra_submitit_launcher"}


def stand_in(seconds: float = 0.0) -> None:
    """Put in the place of `train` what scores abs(log10(lr) + 4) (at once, or after so many seconds) and fails at seed 5."""

    def run(config):
        folder = run_folder(config)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "starts.txt").open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(seconds)
        if config.seed == 5:
            raise UserError("seed 5 is bad luck.")
        value = abs(math.log10(config.optimizer.lr) + 4)
        judge = sys.modules["asr_exp.commands.train"].judge(config)
        for step in (1, 2):
            if judge and (why := judge(step, value + 0.1 / step)):
                (folder / "result.json").write_text(json.dumps({"status": "stopped", "reason": f"Pruned: {why}"}))
                raise Pruned(why)
        scores = {"wer": value + 0.01, "cer": value / 2, "per": None, "ci95": [value, value + 0.02]}
        result = {"status": "finished", "best": {"step": 2, "metric": "wer", "value": value}, "train": {"wall_seconds": 61.2}}
        (folder / "result.json").write_text(json.dumps({**result, "splits": {"dev": scores, "test": scores}}))

    def judge(config):
        from asr_exp.sweeps.study import Judge

        s = config.sweep
        return None if s.trial is None else Judge(s.storage, s.name, s.trial, s.prune, s.startup)

    for name in ("train", "evaluate"):
        sys.modules[f"asr_exp.commands.{name}"] = types.SimpleNamespace(run=run, judge=judge)  # type: ignore[assignment]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to stand in, where `train` is the stand-in."""
    for name in ("train", "evaluate"):
        monkeypatch.setitem(sys.modules, f"asr_exp.commands.{name}", None)
    stand_in()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cells(folder: Path) -> list[dict[str, str]]:
    (path,) = folder.glob("sweeps/*/cells.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def study(folder: Path, name: str = "s") -> optuna.Study:
    return optuna.load_study(storage=f"sqlite:///{folder}/sweeps/{name}/study.db", study_name=name)


def params(folder: Path) -> list[tuple]:
    return [tuple(sorted(trial.params.items())) for trial in study(folder).trials]


# ---------------------------------------------------------------------------------------------------------------------
# ranges


@pytest.mark.parametrize(("text", "expected"), [
    ("seed=1,2", Range("seed", "choice", ("1", "2"))),
    ("trainer.batch_seconds=choice(100,200,400)", Range("trainer.batch_seconds", "choice", ("100", "200", "400"))),
    ("optimizer.clip_norm=null,1.0", Range("optimizer.clip_norm", "choice", ("null", "1.0"))),
    ("augment.speed=[],[0.9,1.1]", Range("augment.speed", "choice", ("[]", "[0.9,1.1]"))),
    ("optimizer.lr=interval(1e-5,1e-3)", Range("optimizer.lr", "float", low=1e-5, high=1e-3)),
    (LR, Range("optimizer.lr", "float", low=1e-5, high=1e-3, log=True)),
    ("seed=range(1,5)", Range("seed", "int", low=1, high=4, step=1)),
    ("seed=range(10,1,-3)", Range("seed", "int", low=4, high=10, step=3)),
    ("optimizer.eps=range(0.1,0.4,0.1)", Range("optimizer.eps", "float", low=0.1, high=0.3, step=0.1)),
    ("seed=shuffle(range(1,3))", Range("seed", "choice", ("1", "2"))),
    ("schedule.warmup_steps=interval(10,100)", Range("schedule.warmup_steps", "int", low=10, high=100, step=1)),  # a key of whole numbers
    ("model.config.x=int(interval(1,8))", Range("model.config.x", "int", low=1, high=8, step=1)),
    ("trainer.average=tag(log, int(interval(1,64)))", Range("trainer.average", "int", low=1, high=64, step=1, log=True)),
])  # fmt: skip
def test_the_syntax_of_ranges(text, expected):
    fixed, (found,) = split_overrides(["seed=7" if not text.startswith("seed") else "dataset=demo", text])
    assert len(fixed) == 1 and found.values == expected.values
    assert (found.name, found.kind, found.choices, found.log) == (expected.name, expected.kind, expected.choices, expected.log)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high)) and found.step == expected.step


@pytest.mark.parametrize(("arguments", "words"), [
    (["sweeper=optuna", "optimizer.lr=tag(ln, interval(1e-5,1e-3))"], ["'ln'", "log"]),
    (["sweeper=optuna", "optimizer.lr=interval(-1,1)"], ["optimizer.lr=-1", "above 0"]),
    (["sweeper=optuna", "schedule.warmup_ratio=tag(log,interval(0,1))"], ["begin above 0"]),
    (["sweeper=optuna", "optimizer.lrr=interval(1,2)"], ["optimizer.lrr", "'optimizer.lr'"]),
    (["sweeper=optuna", "model.padding=interval(1,2)"], ["model.padding"]),
    (["sweeper=optuna", "seed=interval(1.5,2)"], ["seed", "whole number"]),
    (["sweeper=optuna", "optimizer.lr=interval(2,1)"], ["interval(LOW,HIGH)"]),
    (["sweeper=optuna", "seed=range(3,3)"], ["empty"]),
    (["sweeper=optuna"], ["nothing to search"]),
    ([LR], ["sweeper=optuna"]),
    (["sweeper=optunaa", LR], ["sweeper", "'optuna'"]),
    (["sweeper=optuna", LR, "sweep.metric=wer"], ["sweep.metric", "dev.wer"]),
    (["sweeper=optuna", LR, "sweep.workers=2"], ["hydra/launcher=joblib"]),
    (["sweeper=optuna", LR, "sweep.storage=nonsense://x"], ["sweep.storage=nonsense://x"]),
])  # fmt: skip
def test_what_cannot_be_searched_is_told_before_anything_runs(here, capsys, arguments, words):
    assert cli.main(["-m", *arguments]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and "Traceback" not in err and [word for word in words if word not in err] == []
    assert not (here / "outputs").exists()


# ---------------------------------------------------------------------------------------------------------------------
# grids


def test_a_grid_keeps_a_record_that_the_same_command_finds_again(here, capsys):
    assert cli.main(["-m", "optimizer.lr=1e-4,1e-3", "seed=1,5", "dataset.split_seed=3"]) == 1
    rows = cells(here)
    assert [(row["cell"], row["status"], row["overrides"]) for row in rows[:2]] == [
        ("1", "finished", "optimizer.lr=0.0001 seed=1 dataset.split_seed=3"),
        ("2", "failed", "optimizer.lr=0.0001 seed=5 dataset.split_seed=3"),
    ]
    assert rows[1]["reason"] == "seed 5 is bad luck." and rows[1]["code"] == "2" and rows[1]["score"] == ""
    first = rows[2]
    told = {"metric": "wer", "dev": "1.0", "split": "test", "score": "1.01", "ci_low": "1.0", "ci_high": "1.02", "step": "2"}
    assert told.items() <= first.items()
    assert json.loads((here / first["folder"] / "result.json").read_text())["best"]["value"] == 1.0 and first["seconds"] == "61.2"
    (table,) = here.glob("sweeps/*/table.md")
    text = table.read_text()
    assert "4 cells: 2 finished, 2 failed." in text and "`optimizer.lr=0.001 seed=1`" in text
    assert "split_seed" not in text and "**0.0000**" in text
    assert re.fullmatch(r"lr-seed-[0-9a-f]{6}", table.parent.name)
    assert cli.main(["-m", "seed=1,5", "optimizer.lr=1e-4,1e-3", "dataset.split_seed=3", "tracking=none", "output_root=elsewhere"]) == 1
    assert len(cells(here)) == 4  # in whatever order, with whatever cannot change the cells
    assert cli.main(["-m", "seed=1,2"]) == 0 and len(list(here.glob("sweeps/*/cells.csv"))) == 2


def test_the_record_is_written_as_cells_end(here, monkeypatch):
    seen = []

    def run(config):
        seen.append([(row["overrides"], row["status"]) for row in cells(here)])

    monkeypatch.setitem(sys.modules, "asr_exp.commands.train", types.SimpleNamespace(run=run))
    assert cli.main(["-m", "seed=1,2", "sweep.name=mine"]) == 0
    assert seen == [[("seed=1", "running")], [("seed=1", "finished"), ("seed=2", "running")]]
    assert (here / "sweeps/mine/table.md").exists()


def test_what_a_sweep_is_called_does_not_change_its_runs():
    from asr_exp.config import compose

    assert signature(compose([])) == signature(compose(["sweeper=optuna", "sweep.trial=3", "sweep.name=x"]))


def test_cells_of_evaluate_are_where_their_protocol_puts_them(here, monkeypatch, capsys):
    saved = {"seed": 3, "dataset": {"name": "timit", "reader": "timit"}, "model": {"name": "tiny", "architecture": "wav2vec2"},
             "text": {"name": "standard"}, "trainer": {"max_steps": 4}}  # fmt: skip
    (here / "run").mkdir()
    (here / "run/config.yaml").write_text(json.dumps(saved))

    def run(config):
        place = here / "run/evaluations" / str(config.decode.settings["beam"])
        place.mkdir(parents=True)
        scores = {"wer": 1 / config.decode.settings["beam"], "ci95": None}
        (place / "result.json").write_text(json.dumps({"status": "finished", "splits": {"dev": scores}}))
        return place

    monkeypatch.setitem(sys.modules, "asr_exp.commands.evaluate", types.SimpleNamespace(run=run))
    assert cli.main(["evaluate", *SEARCH, "run=run", "split=dev", "decode.settings.beam=range(1,9)", "sweep.trials=30"]) == 0
    assert sorted(row["folder"] for row in cells(here)) == [str(here / f"run/evaluations/{n}") for n in range(1, 9)]
    assert study(here).best_params == {"++decode.settings.beam": 8} and "8 of 8 cells done" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------------------
# searches


@pytest.mark.parametrize("sampler", ["sweep.sampler=tpe", "sweep.sampler=gp", "sweeper=random"])
def test_a_search_finds_and_goes_on_without_repeating(here, capsys, sampler):
    search = SEARCH if "sampler" in sampler else ["-m", "sweep.name=s"]
    command = [*search, LR, "seed=range(1,4)", sampler, "sweep.prune=false", "sweep.startup=3"]
    assert cli.main([*command, "sweep.trials=4"]) == 0
    before = params(here)
    assert len(set(before)) == 4 and cli.main([*command, "sweep.trials=4"]) == 0 and params(here) == before  # there is no more to do
    assert cli.main([*command, "sweep.trials=8"]) == 0
    after = params(here)
    assert after[:4] == before and len(set(after)) == 8
    rows = cells(here)
    assert [row["cell"] for row in rows] == [str(n) for n in range(1, 9)] and len({row["folder"] for row in rows}) == 8
    found = study(here)
    assert all(float(row["dev"]) == pytest.approx(trial.value) for row, trial in zip(rows, found.trials, strict=True))
    lrs = [trial.params["optimizer.lr"] for trial in found.trials]
    assert all(1e-5 <= lr <= 1e-3 and lr == float(f"{lr:.5g}") for lr in lrs)  # what is run is what the study says
    assert f"trial {found.best_trial.number + 1}:" in capsys.readouterr().out and (here / "sweeps/s/study.html").exists()


def test_a_search_draws_the_same_again(here):
    command = [*SEARCH, LR, "sweep.startup=2"]
    assert cli.main([*command, "sweep.trials=6"]) == 0
    first = params(here)
    for part in ("sweeps", "outputs"):
        shutil.rmtree(here / part)
    assert cli.main([*command, "sweep.trials=3"]) == 0 and cli.main([*command, "sweep.trials=6"]) == 0
    assert params(here) == first  # stopped half-way or not


def test_a_search_ends_when_nothing_is_left(here, capsys):
    assert cli.main([*SEARCH, "optimizer.lr=1e-4,1e-3", "seed=range(1,4)", "sweep.trials=50"]) == 0
    assert len(set(params(here))) == len(params(here)) == 6 and "6 of 6 cells done" in capsys.readouterr().out


def test_a_trial_that_fails_is_recorded_and_tried_again_only_when_asked(here, capsys, monkeypatch):
    command = [*SEARCH, "optimizer.lr=1e-4,1e-3", "seed=4,5"]
    assert cli.main(command) == 1
    states = [trial.state.name for trial in study(here).trials]
    assert sorted(states) == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
    assert sum(row["status"] == "failed" for row in cells(here)) == 2 and "4 cells done, 2 failed" in capsys.readouterr().out
    assert cli.main(command) == 1 and len(study(here).trials) == 4
    monkeypatch.setattr(sys.modules["asr_exp.commands.train"], "run", _mended)
    assert cli.main([*command, "sweep.retry=true"]) == 0
    assert len(study(here).trials) == 6 and [row["status"] for row in cells(here)] == ["finished"] * 4


def _mended(config):
    folder = run_folder(config)
    (folder / "result.json").write_text(json.dumps({"status": "finished", "best": {"step": 1, "metric": "wer", "value": 0.5}}))


def test_a_setting_that_cannot_be_composed_fails_alone(here, capsys):
    assert cli.main([*SEARCH, LR, "trainer.ema=null,0.9", "trainer.average=1,2"]) == 1  # both averages contradict each other
    states = {(trial.params["trainer.ema"], trial.params["trainer.average"]): trial.state.name for trial in study(here).trials}
    assert states[("0.9", "2")] == "FAIL" and {state for key, state in states.items() if key != ("0.9", "2")} <= {"COMPLETE", "PRUNED"}


def test_pruning_goes_by_the_median_of_the_others(here, capsys):
    command = [*SEARCH, LR, "sweep.startup=3", "sweep.sampler=random"]
    assert cli.main([*command, "sweep.trials=12"]) == 0
    trials = study(here).trials
    pruned = [trial for trial in trials if trial.state.name == "PRUNED"]
    assert 2 <= len(pruned) < 9 and all(trial.number >= 3 for trial in pruned)
    for trial in pruned:
        others = sorted(one.intermediate_values[1] for one in trials[: trial.number] if one.state.name == "COMPLETE")
        half = len(others) // 2
        assert trial.intermediate_values[1] > (others[half] if len(others) % 2 else (others[half - 1] + others[half]) / 2)
    rows = {row["cell"]: row for row in cells(here)}
    assert {row["cell"] for row in rows.values() if row["status"] == "pruned"} == {str(trial.number + 1) for trial in pruned}
    assert all(row["reason"].startswith("Pruned: dev") and row["code"] == "0" for row in rows.values() if row["status"] == "pruned")
    assert "Pruned: dev" in capsys.readouterr().out


def test_what_is_minimised_can_be_chosen(here):
    assert cli.main([*SEARCH, LR, "sweep.trials=3", "sweep.metric=test.cer"]) == 0
    assert [trial.value for trial in study(here).trials] == pytest.approx([float(row["dev"]) / 2 for row in cells(here)])


def test_a_study_of_other_settings_is_not_mixed_in(here, capsys):
    assert cli.main([*SEARCH, LR, "sweep.trials=2"]) == 0
    assert cli.main([*SEARCH, LR, "sweep.trials=3", "trainer.average=2"]) == 2
    assert "sweep.name" in capsys.readouterr().err and len(study(here).trials) == 2


def test_a_file_may_say_what_is_searched(here):
    (here / "conf/experiment").mkdir(parents=True)
    text = "# @package _global_\nsweeper: optuna\nsweep: {trials: 3}\nhydra:\n  mode: MULTIRUN\n"
    text += "  sweeper:\n    params:\n      optimizer.lr: interval(1e-4,1e-3)\n"
    (here / "conf/experiment/search.yaml").write_text(text)
    assert cli.main(["experiment=search", "sweep.name=s"]) == 0
    assert len(study(here).trials) == 3 and "experiment=search" in cells(here)[0]["overrides"]


def test_a_journal_may_be_the_storage(here):
    command = [*SEARCH, LR, f"sweep.storage={here}/j.log"]
    assert cli.main([*command, "sweep.trials=2"]) == 0 and cli.main([*command, "sweep.trials=4"]) == 0
    assert len(cells(here)) == 4 and not (here / "sweeps/s/study.db").exists()


# ---------------------------------------------------------------------------------------------------------------------
# killed, and shared


def test_a_search_killed_with_9_goes_on_with_the_trial_it_was_at(tmp_path):
    command = [*SEARCH, LR, "sweep.trials=7", "sweep.prune=false"]
    for done in (2, 4):  # killed twice
        process = harness.Fork(*command, cwd=tmp_path, patch=(stand_in, 0.4))
        harness.wait_for(lambda done=done: len(list(tmp_path.glob("outputs/**/result.json"))) >= done)
        harness.wait_for(lambda done=done: len(list(tmp_path.glob("outputs/**/starts.txt"))) > done)
        process.send(signal.SIGKILL)
        process.wait(-signal.SIGKILL)
    out = harness.fork(*command, cwd=tmp_path, patch=(stand_in, 0.0))
    assert len(set(params(tmp_path))) == len(params(tmp_path)) == 7 and "7 of 7 cells done" in out
    assert {trial.state.name for trial in study(tmp_path).trials} == {"COMPLETE"}
    starts = [len(path.read_text().split()) for path in tmp_path.glob("outputs/**/starts.txt")]
    assert sorted(starts) == [1] * 5 + [2] * 2  # only what was killed at work began again
    assert [row["status"] for row in cells(tmp_path)] == ["finished"] * 7


def test_two_workers_share_a_study(tmp_path):
    command = [*SEARCH, LR, "sweep.trials=8", "sweep.prune=false"]
    workers = []
    for _ in range(2):
        workers.append(subprocess.Popen([sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
                                         "import test_sweeps; test_sweeps.stand_in(1.0); from asr_exp.__main__ import main; "
                                         "sys.exit(main(sys.argv[1:]))", *command], cwd=tmp_path, env=harness.environment()))  # fmt: skip
    assert [worker.wait(120) for worker in workers] == [0, 0]
    assert len(set(params(tmp_path))) == len(params(tmp_path)) == 8
    starts = [path.read_text().split() for path in tmp_path.glob("outputs/**/starts.txt")]
    assert len(starts) == 8 and all(len(start) == 1 for start in starts) and len({start[0] for start in starts}) == 2
    assert [row["status"] for row in cells(tmp_path)] == ["finished"] * 8


# ---------------------------------------------------------------------------------------------------------------------
# with real training


@pytest.fixture
def real(tmp_path, corpus, backbone):
    """The words of a sweep whose cells train in no time."""
    return ["-m", "sweep.name=s", *corpus, "model=hf", f"model.checkpoint={backbone('wav2vec2-group')}", "trainer.batch_seconds=8",
            "trainer.max_steps=6", "trainer.eval_every=2", *harness.QUIET]  # fmt: skip


@pytest.mark.slow
def test_a_trial_killed_in_training_goes_on_from_its_checkpoint_and_a_bad_one_is_pruned(tmp_path, real):
    command = [*real, "sweeper=optuna", LR, "sweep.startup=1"]
    killed = harness.Fork(*command, "sweep.trials=1", cwd=tmp_path, patch=(harness.killed_at, "asr_exp.training.train_step", 4))
    killed.wait(-signal.SIGKILL)
    assert study(tmp_path).trials[0].state.name == "RUNNING"
    out = harness.fork(*command, "sweep.trials=1", cwd=tmp_path)
    assert "Going on from step 2 of 6" in out and [trial.state.name for trial in study(tmp_path).trials] == ["COMPLETE"]
    assert list(study(tmp_path).trials[0].intermediate_values) == [2, 4, 6]
    better = {2: 0.01, 4: 0.01, 6: 0.01}
    done = study(tmp_path).trials[0]
    for lr in (2e-5, 3e-5):
        study(tmp_path).add_trial(optuna.trial.create_trial(params={"optimizer.lr": lr}, distributions=done.distributions, value=0.01,
                                                            intermediate_values=better))  # fmt: skip
    harness.fork(*command, "sweep.trials=4", cwd=tmp_path)
    assert [trial.state.name for trial in study(tmp_path).trials] == ["COMPLETE"] * 3 + ["PRUNED"]
    folder = tmp_path / cells(tmp_path)[-1]["folder"]
    result = harness.result(folder)
    assert result["status"] == "stopped" and result["reason"].startswith("Pruned: dev") and cells(tmp_path)[-1]["status"] == "pruned"
    assert len(harness.losses(folder)) == 2 and (folder / "checkpoints/last").is_dir()  # it could go on
    alone = [word for word in real if word not in ("-m", "sweep.name=s")]
    harness.fork(*alone, f"optimizer.lr={study(tmp_path).trials[-1].params['optimizer.lr']}", cwd=tmp_path)
    assert harness.result(folder)["status"] == "finished"  # the same run, asked for by itself


@pytest.mark.slow
@pytest.mark.parametrize("launcher", EXTRAS)
def test_launchers_run_cells_and_workers(tmp_path, real, launcher):
    pytest.importorskip(EXTRAS[launcher])
    asked = [*real, f"hydra/launcher={launcher}", *(["hydra.launcher.n_jobs=2"] if launcher == "joblib" else [])]
    assert "2 of 2 cells done" in harness.cli(*asked, "seed=1,2", cwd=tmp_path).stdout
    assert [row["status"] for row in cells(tmp_path)] == ["finished"] * 2
    shutil.rmtree(tmp_path / "sweeps")
    out = harness.cli(*asked, "sweeper=optuna", LR, "sweep.trials=3", "sweep.workers=2", cwd=tmp_path).stdout
    assert "3 of 3 cells done" in out and len(set(params(tmp_path))) == 3


@pytest.mark.slow
@pytest.mark.parametrize("search", [["seed=1"], ["sweeper=optuna", LR, "sweep.trials=1"], ["seed=1", "trainer.devices=2"]])
def test_a_cell_that_is_preempted_saves_is_queued_again_and_goes_on(tmp_path, real, search):
    pytest.importorskip(EXTRAS["submitit_local"])
    asked = [word.replace("max_steps=6", "max_steps=90").replace("eval_every=2", "eval_every=300") for word in real]
    process = harness.start(*asked, *search, "hydra/launcher=submitit_local", cwd=tmp_path)
    harness.wait_for(lambda: any(path.read_text().count("train/loss") > 10 for path in tmp_path.glob("outputs/**/metrics.jsonl")))
    (job,) = (path.name for path in tmp_path.glob("sweeps/s/.submitit/[0-9]*"))
    (task,) = Path(f"/proc/{job}/task/{job}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)  # what SLURM sends when it wants the machine back
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    said = "".join(path.read_text() for path in tmp_path.glob("sweeps/s/.submitit/*/*_log.out"))
    assert "Requeued job" in said and re.search(r"Going on from step \d+ of 90", said)
    (row,) = cells(tmp_path)
    assert row["status"] == "finished" and len(harness.losses(tmp_path / row["folder"])) == 90


# ---------------------------------------------------------------------------------------------------------------------
# what is made of a study


def test_the_pictures_show_the_study(here):
    from PIL import Image

    assert cli.main([*SEARCH, LR, "trainer.average=range(1,5)", "text=standard,upper", "sweep.trials=12", "sweep.startup=4"]) == 0
    for name in ("history", "importance", "parallel"):
        image = Image.open(here / f"sweeps/s/{name}.png").convert("RGB")
        assert min(image.size) > 200 and len(image.getcolors(1 << 24) or ()) > 50
    page = (here / "sweeps/s/study.html").read_text()
    assert page.count("<svg") == 3 and "://" not in page and not re.search(r'(src|href)="[^#]', page)
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) and set(re.findall(r'(?:href="#|url\(#)([^")]+)', page)) <= set(ids)
    best = study(here).best_trial
    assert f"{100 * best.value:.2f} %" in page and all(str(one.number + 1) in page for one in study(here).trials)


def test_a_sweep_file_for_wandb(here, capsys):
    asked = [LR, "schedule.warmup_steps=interval(10,100)", "trainer.average=range(1,5,2)", "optimizer.clip_norm=null,1.0",
             "model=tiny,wavlm-base"]  # fmt: skip
    assert cli.main(["-m", "sweeper=wandb", "dataset=timit", "dataset.root=/data/TIMIT", "sweep.trials=30", *asked]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    (path,) = here.glob("sweeps/*/wandb.yaml")
    assert yaml.safe_load(path.read_text()) == found and not (here / "outputs").exists()
    assert found["command"] == ["${env}", "${interpreter}", "-m", "asr_exp", "train", "dataset=timit", "dataset.root=/data/TIMIT",
                                "tracking=wandb", "${args_no_hyphens}"]  # fmt: skip
    assert found["method"] == "bayes" and found["metric"] == {"name": "dev/wer", "goal": "minimize"} and found["run_cap"] == 30
    assert found["parameters"] == {
        "optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-3},
        "schedule.warmup_steps": {"distribution": "int_uniform", "min": 10, "max": 100},
        "trainer.average": {"values": [1, 3]}, "optimizer.clip_norm": {"values": ["null", 1.0]},
        "model": {"values": ["tiny", "wavlm-base"]},
    }  # fmt: skip
    agents = [f"{name}={one.get('values', [one.get('min')])[0]}" for name, one in found["parameters"].items()]
    assert cli.main([*found["command"][4:-1], *agents, "--cfg", "job"]) == 0  # what the agent would type is understood
    assert cli.main(["-m", "sweeper=wandb", "tokenizer=phone", "seed=1,2"]) == 0
    assert cli.main(["-m", "sweeper=wandb", "sweep.sampler=random", LR]) == 0
    methods = {yaml.safe_load(path.read_text())["method"] for path in here.glob("sweeps/*/wandb.yaml")}
    assert methods == {"bayes", "grid", "random"}
