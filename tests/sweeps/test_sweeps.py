"""Sweeps: what they record, that a search resumes and shares its study, what it prunes, and the pictures.
Training is played by a stand-in where it may be."""

import json
import re
import shutil
import signal
import sys
import types

import harness
import pytest
from sweeping import LR, SEARCH, cells, params, stand_in, study

from asr_exp.cli.arguments import module_of
from asr_exp.cli.main import main
from asr_exp.config.compose import compose
from asr_exp.runs.folder import run_folder, signature


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to stand in, where `train` is the stand-in."""
    for name in ("train", "evaluate"):
        monkeypatch.setitem(sys.modules, module_of(name), None)
    stand_in()
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ------------------------------------------------------------------------------------------------------------
# grids


def test_a_grid_keeps_a_record_that_the_same_command_finds_again(here, capsys):
    assert main(["-m", "optimizer.lr=1e-4,1e-3", "seed=1,5", "dataset.split_seed=3"]) == 1
    rows = cells(here)
    assert [(row["cell"], row["status"], row["overrides"]) for row in rows[:2]] == [
        ("1", "finished", "optimizer.lr=0.0001 seed=1 dataset.split_seed=3"),
        ("2", "failed", "optimizer.lr=0.0001 seed=5 dataset.split_seed=3"),
    ]
    assert rows[1]["reason"] == "seed 5 is bad luck." and rows[1]["code"] == "2" and rows[1]["score"] == ""
    first = rows[2]
    told = {
        "metric": "wer",
        "dev": "1.0",
        "split": "test",
        "score": "1.01",
        "ci_low": "1.0",
        "ci_high": "1.02",
        "step": "2",
    }
    assert told.items() <= first.items()
    assert (
        json.loads((here / first["folder"] / "result.json").read_text())["best"]["value"] == 1.0
        and first["seconds"] == "61.2"
    )
    (table,) = here.glob("sweeps/*/table.md")
    text = table.read_text()
    assert "4 cells: 2 finished, 2 failed." in text and "`optimizer.lr=0.001 seed=1`" in text
    assert (
        "split_seed" not in text
        and "**WER 0.00 %**" in text
        and "| 101.00 % | 100.00 % .. 102.00 % |" in text
    )
    assert re.fullmatch(r"lr-seed-[0-9a-f]{6}", table.parent.name)
    assert (
        main(
            [
                "-m",
                "seed=1,5",
                "optimizer.lr=1e-4,1e-3",
                "dataset.split_seed=3",
                "tracking=none",
                "output_root=elsewhere",
            ]
        )
        == 1
    )
    assert len(cells(here)) == 4  # in whatever order, with whatever cannot change the cells
    assert main(["-m", "seed=1,2"]) == 0 and len(list(here.glob("sweeps/*/cells.csv"))) == 2


def test_a_grid_takes_in_what_its_files_vary(here, capsys):
    folder = here / "conf/experiment/mine"
    folder.mkdir(parents=True)
    for name, seeds in (("one", "1,2"), ("two", "1,2"), ("three", "3")):
        (folder / f"{name}.yaml").write_text(
            f"# @package _global_\nhydra: {{sweeper: {{params: {{seed: '{seeds}'}}}}}}\n"
        )
    assert main(["-m", "experiment=mine/one,mine/two", "sweep.name=s"]) == 0
    assert [row["overrides"] for row in cells(here)] == [
        f"seed={seed} experiment=mine/{row}" for seed in (1, 2) for row in ("one", "two")
    ]
    # the command line's own value counts
    assert main(["-m", "experiment=mine/one", "seed=4", "sweep.name=s"]) == 0
    assert len(cells(here)) == 5 and "experiment=mine/one seed=4" in {row["overrides"] for row in cells(here)}
    assert main(["-m", "experiment=mine", "sweep.name=s"]) == 2
    err = capsys.readouterr().err
    assert (
        "mine/one and experiment=mine/three vary different things" in err
        and "run them one at a time" in err
        and "Traceback" not in err
    )


def test_the_record_is_written_as_cells_end(here, monkeypatch):
    seen = []

    def run(config):
        seen.append([(row["overrides"], row["status"]) for row in cells(here)])

    monkeypatch.setitem(sys.modules, "asr_exp.commands.train.command", types.SimpleNamespace(run=run))
    assert main(["-m", "seed=1,2", "sweep.name=mine"]) == 0
    assert seen == [[("seed=1", "running")], [("seed=1", "finished"), ("seed=2", "running")]]
    assert (here / "sweeps/mine/table.md").exists()


def test_what_a_sweep_is_called_does_not_change_its_runs():
    assert signature(compose([])) == signature(compose(["sweeper=optuna", "sweep.trial=3", "sweep.name=x"]))


def test_cells_of_evaluate_are_where_their_protocol_puts_them(here, monkeypatch, capsys):
    saved = {
        "seed": 3,
        "dataset": {"name": "timit", "reader": "timit"},
        "model": {"name": "tiny", "architecture": "wav2vec2"},
        "text": {"name": "standard"},
        "trainer": {"max_steps": 4},
        "sweep": {},
    }
    (here / "run").mkdir()
    (here / "run/config.yaml").write_text(json.dumps(saved))

    def run(config):
        place = here / "run/evaluations" / str(config.decode.settings["beam"])
        place.mkdir(parents=True)
        scores = {"wer": 1 / config.decode.settings["beam"], "ci95": None}
        (place / "result.json").write_text(json.dumps({"status": "finished", "splits": {"dev": scores}}))
        return place

    monkeypatch.setitem(sys.modules, "asr_exp.commands.evaluate", types.SimpleNamespace(run=run))
    assert (
        main(
            [
                "evaluate",
                *SEARCH,
                "run=run",
                "split=dev",
                "decode.settings.beam=range(1,4)",
                "sweep.trials=30",
            ]
        )
        == 0
    )
    assert sorted(row["folder"] for row in cells(here)) == [
        str(here / f"run/evaluations/{n}") for n in range(1, 4)
    ]
    assert (
        study(here).best_params == {"++decode.settings.beam": 3}
        and "3 of 3 cells done" in capsys.readouterr().out
    )


# ------------------------------------------------------------------------------------------------------------
# searches


@pytest.mark.parametrize("sampler", ["sweep.sampler=tpe", "sweep.sampler=gp", "sweeper=random"])
def test_a_search_finds_and_goes_on_without_repeating(here, capsys, sampler):
    search = SEARCH if "sampler" in sampler else ["-m", "sweep.name=s"]
    command = [*search, LR, "seed=range(1,4)", sampler, "sweep.prune=false", "sweep.startup=2"]
    assert main([*command, "sweep.trials=3"]) == 0
    before = params(here)
    # there is no more to do
    assert len(set(before)) == 3 and main([*command, "sweep.trials=3"]) == 0 and params(here) == before
    assert main([*command, "sweep.trials=5"]) == 0
    after = params(here)
    assert after[:3] == before and len(set(after)) == 5
    rows = cells(here)
    assert [row["cell"] for row in rows] == list("12345") and len({row["folder"] for row in rows}) == 5
    found = study(here)
    assert all(
        float(row["dev"]) == pytest.approx(trial.value) for row, trial in zip(rows, found.trials, strict=True)
    )
    lrs = [trial.params["optimizer.lr"] for trial in found.trials]
    # what is run is what the study says
    assert all(1e-5 <= lr <= 1e-3 and lr == float(f"{lr:.5g}") for lr in lrs)
    assert (
        f"trial {found.best_trial.number + 1}:" in capsys.readouterr().out
        and (here / "sweeps/s/study.html").exists()
    )


def test_a_search_draws_the_same_again(here):
    command = [*SEARCH, LR, "sweep.startup=2"]
    assert main([*command, "sweep.trials=4"]) == 0
    first = params(here)
    for part in ("sweeps", "outputs"):
        shutil.rmtree(here / part)
    assert main([*command, "sweep.trials=3"]) == 0 and main([*command, "sweep.trials=4"]) == 0
    assert params(here) == first  # stopped half-way or not


def test_a_search_ends_when_nothing_is_left(here, capsys):
    assert main([*SEARCH, "optimizer.lr=1e-4,1e-3", "seed=1,2", "sweep.trials=50"]) == 0
    assert len(set(params(here))) == len(params(here)) == 4 and "4 of 4 cells done" in capsys.readouterr().out


def test_a_trial_that_fails_is_recorded_and_tried_again_only_when_asked(here, capsys, monkeypatch):
    command = [*SEARCH, "optimizer.lr=1e-4,1e-3", "seed=4,5"]
    assert main(command) == 1
    states = [trial.state.name for trial in study(here).trials]
    assert sorted(states) == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
    assert (
        sum(row["status"] == "failed" for row in cells(here)) == 2
        and "4 cells done, 2 failed" in capsys.readouterr().out
    )
    assert main(command) == 1 and len(study(here).trials) == 4
    monkeypatch.setattr(sys.modules["asr_exp.commands.train.command"], "run", _mended)
    assert main([*command, "sweep.retry=true"]) == 0
    assert len(study(here).trials) == 6 and [row["status"] for row in cells(here)] == ["finished"] * 4


def _mended(config):
    folder = run_folder(config)
    (folder / "result.json").write_text(
        json.dumps({"status": "finished", "best": {"step": 1, "metric": "wer", "value": 0.5}})
    )


def test_a_setting_that_cannot_be_composed_fails_alone(here, capsys):
    # both averages contradict each other
    assert main([*SEARCH, "trainer.ema=0.9", "trainer.average=1,2"]) == 1
    assert {trial.params["trainer.average"]: trial.state.name for trial in study(here).trials} == {
        "1": "COMPLETE",
        "2": "FAIL",
    }


def test_pruning_goes_by_the_median_of_the_others(here, capsys):
    command = [*SEARCH, LR, "sweep.startup=3", "sweep.sampler=random"]
    assert main([*command, "sweep.trials=9"]) == 0
    trials = study(here).trials
    pruned = [trial for trial in trials if trial.state.name == "PRUNED"]
    assert 2 <= len(pruned) < 6 and all(trial.number >= 3 for trial in pruned)
    for trial in pruned:
        others = sorted(
            one.intermediate_values[1] for one in trials[: trial.number] if one.state.name == "COMPLETE"
        )
        half = len(others) // 2
        assert trial.intermediate_values[1] > (
            others[half] if len(others) % 2 else (others[half - 1] + others[half]) / 2
        )
    rows = {row["cell"]: row for row in cells(here)}
    assert {row["cell"] for row in rows.values() if row["status"] == "pruned"} == {
        str(trial.number + 1) for trial in pruned
    }
    assert all(
        row["reason"].startswith("Pruned: dev") and row["code"] == "0"
        for row in rows.values()
        if row["status"] == "pruned"
    )
    assert "Pruned: dev" in capsys.readouterr().out


def test_what_is_minimised_can_be_chosen(here):
    assert main([*SEARCH, LR, "sweep.trials=3", "sweep.metric=test.cer"]) == 0
    assert [trial.value for trial in study(here).trials] == pytest.approx(
        [float(row["dev"]) / 2 for row in cells(here)]
    )


def test_a_study_of_other_settings_is_not_mixed_in(here, capsys):
    assert main([*SEARCH, LR, "sweep.trials=2"]) == 0
    assert main([*SEARCH, LR, "sweep.trials=3", "trainer.average=2"]) == 2
    assert "sweep.name" in capsys.readouterr().err and len(study(here).trials) == 2


def test_a_file_may_say_what_is_searched(here):
    (here / "conf/experiment").mkdir(parents=True)
    text = "# @package _global_\nsweeper: optuna\nsweep: {trials: 3}\nhydra:\n  mode: MULTIRUN\n"
    text += "  sweeper:\n    params:\n      optimizer.lr: interval(1e-4,1e-3)\n"
    (here / "conf/experiment/search.yaml").write_text(text)
    assert main(["experiment=search", "sweep.name=s"]) == 0
    assert len(study(here).trials) == 3 and "experiment=search" in cells(here)[0]["overrides"]


def test_a_journal_may_be_the_storage(here):
    command = [*SEARCH, LR, f"sweep.storage={here}/j.log"]
    assert main([*command, "sweep.trials=2"]) == 0 and main([*command, "sweep.trials=4"]) == 0
    assert len(cells(here)) == 4 and not (here / "sweeps/s/study.db").exists()


# ------------------------------------------------------------------------------------------------------------
# killed, and shared


@pytest.mark.slow
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


@pytest.mark.slow
def test_two_workers_share_a_study(tmp_path):
    command = [*SEARCH, LR, "sweep.trials=8", "sweep.prune=false"]
    workers = [harness.Fork(*command, cwd=tmp_path, patch=(stand_in, 1.0)) for _ in range(2)]
    for worker in workers:
        worker.wait(0)
    assert len(set(params(tmp_path))) == len(params(tmp_path)) == 8
    starts = [path.read_text().split() for path in tmp_path.glob("outputs/**/starts.txt")]
    assert (
        len(starts) == 8
        and all(len(start) == 1 for start in starts)
        and len({start[0] for start in starts}) == 2
    )
    assert [row["status"] for row in cells(tmp_path)] == ["finished"] * 8


# ------------------------------------------------------------------------------------------------------------
# what is made of a study


def test_the_pictures_show_the_study(here):
    from PIL import Image

    assert (
        main(
            [
                *SEARCH,
                LR,
                "trainer.average=range(1,5)",
                "text=standard,upper",
                "sweep.trials=7",
                "sweep.startup=4",
            ]
        )
        == 0
    )
    for name in ("history", "importance", "parallel"):
        image = Image.open(here / f"sweeps/s/{name}.png").convert("RGB")
        assert min(image.size) > 200 and len(image.getcolors(1 << 24) or ()) > 50
    page = (here / "sweeps/s/study.html").read_text()
    assert page.count("<svg") == 3 and "://" not in page and not re.search(r'(src|href)="[^#]', page)
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) and set(re.findall(r'(?:href="#|url\(#)([^")]+)', page)) <= set(ids)
    best = study(here).best_trial
    assert f"{100 * best.value:.2f} %" in page and all(
        str(one.number + 1) in page for one in study(here).trials
    )
