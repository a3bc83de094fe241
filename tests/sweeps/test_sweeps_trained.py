"""Sweeps whose cells are really trained or scored: killed, pruned, preempted, and run by launchers side by
side.
"""

import os
import re
import shutil
import signal
import time
from pathlib import Path

import harness
import optuna
import pytest
from sweeping import EXTRAS, LR, cells, params, study

pytestmark = pytest.mark.slow


@pytest.fixture
def real(tmp_path, corpus, backbone):
    """The words of a sweep whose cells train in no time."""
    return [
        "-m",
        "sweep.name=s",
        *corpus,
        "model=hf",
        f"model.checkpoint={backbone('wav2vec2-group')}",
        "trainer.batch_seconds=8",
        "trainer.max_steps=6",
        "trainer.eval_every=2",
        *harness.QUIET,
    ]


def test_a_trial_killed_in_training_goes_on_from_its_checkpoint_and_a_bad_one_is_pruned(tmp_path, real):
    command = [*real, "sweeper=optuna", LR, "sweep.startup=1"]
    killed = harness.Fork(
        *command,
        "sweep.trials=1",
        cwd=tmp_path,
        patch=(harness.killed_at, "asr_exp.training.loop.train_step", 4),
    )
    killed.wait(-signal.SIGKILL)
    assert study(tmp_path).trials[0].state.name == "RUNNING"
    out = harness.fork(*command, "sweep.trials=1", cwd=tmp_path)
    assert "Going on from step 2 of 6" in out and [trial.state.name for trial in study(tmp_path).trials] == [
        "COMPLETE"
    ]
    assert list(study(tmp_path).trials[0].intermediate_values) == [2, 4, 6]
    better = {2: 0.01, 4: 0.01, 6: 0.01}
    done = study(tmp_path).trials[0]
    for lr in (2e-5, 3e-5):
        study(tmp_path).add_trial(
            optuna.trial.create_trial(
                params={"optimizer.lr": lr},
                distributions=done.distributions,
                value=0.01,
                intermediate_values=better,
            )
        )
    harness.fork(*command, "sweep.trials=4", cwd=tmp_path)
    assert [trial.state.name for trial in study(tmp_path).trials] == ["COMPLETE"] * 3 + ["PRUNED"]
    folder = tmp_path / cells(tmp_path)[-1]["folder"]
    result = harness.result(folder)
    assert (
        result["status"] == "stopped"
        and result["reason"].startswith("Pruned: dev")
        and cells(tmp_path)[-1]["status"] == "pruned"
    )
    assert len(harness.losses(folder)) == 2 and (folder / "checkpoints/last").is_dir()  # it could go on
    alone = [word for word in real if word not in ("-m", "sweep.name=s")]
    harness.fork(*alone, f"optimizer.lr={study(tmp_path).trials[-1].params['optimizer.lr']}", cwd=tmp_path)
    assert harness.result(folder)["status"] == "finished"  # the same run, asked for by itself


@pytest.mark.parametrize("launcher", EXTRAS)
def test_launchers_run_cells_and_workers(tmp_path, real, launcher):
    pytest.importorskip(EXTRAS[launcher])
    asked = [
        *real,
        f"hydra/launcher={launcher}",
        *(["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []),
    ]
    assert "2 of 2 cells done" in harness.cli(*asked, "seed=1,2", cwd=tmp_path).stdout
    assert [row["status"] for row in cells(tmp_path)] == ["finished"] * 2
    shutil.rmtree(tmp_path / "sweeps")
    out = harness.cli(*asked, "sweeper=optuna", LR, "sweep.trials=3", "sweep.workers=2", cwd=tmp_path).stdout
    assert "3 of 3 cells done" in out and len(set(params(tmp_path))) == 3


@pytest.mark.parametrize(
    "search", [["seed=1"], ["sweeper=optuna", LR, "sweep.trials=1"], ["seed=1", "trainer.devices=2"]]
)
def test_a_cell_that_is_preempted_saves_is_queued_again_and_goes_on(tmp_path, real, search):
    pytest.importorskip(EXTRAS["submitit_local"])
    asked = [
        word.replace("max_steps=6", "max_steps=90").replace("eval_every=2", "eval_every=300") for word in real
    ]
    process = harness.start(*asked, *search, "hydra/launcher=submitit_local", cwd=tmp_path)
    harness.wait_for(
        lambda: any(
            path.read_text().count("train/loss") > 10 for path in tmp_path.glob("outputs/**/metrics.jsonl")
        )
    )
    (job,) = (path.name for path in tmp_path.glob("sweeps/s/.submitit/[0-9]*"))
    (task,) = Path(f"/proc/{job}/task/{job}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)  # what SLURM sends when it wants the machine back
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    said = "".join(path.read_text() for path in tmp_path.glob("sweeps/s/.submitit/*/*_log.out"))
    assert "Requeued job" in said and re.search(r"Going on from step \d+ of 90", said)
    (row,) = cells(tmp_path)
    assert row["status"] == "finished" and len(harness.losses(tmp_path / row["folder"])) == 90


BEAM = """
from asr_exp.decoding.decoders import register_decoder

@register_decoder("noted")
def noted(tokenizer, beam):
    return lambda logits, frames: [f"ba {beam}"] * len(frames)
"""


def slow_to_load():
    harness.intercept("asr_exp.builders.fine_tuned.build_recogniser", lambda: time.sleep(2))


def test_several_settings_of_a_decoder_are_scored_at_once(tmp_path, real):
    (tmp_path / "beams.py").write_text(BEAM)
    folder = harness.run(*(word for word in real if word not in ("-m", "sweep.name=s")), cwd=tmp_path)
    before = harness.result(folder)
    scored = ["evaluate", f"run={folder}", "plugins=[beams]", *harness.QUIET]
    settings = [["decode.name=noted", f"decode.settings.beam={beam}"] for beam in (1, 2, 2)] + [["split=dev"]]
    at_once = [harness.Fork(*scored, *setting, cwd=tmp_path, patch=(slow_to_load,)) for setting in settings]
    for process in at_once:
        process.wait(0)
    places = {
        harness.result(path)["protocol"]["decoder"]: path for path in (folder / "evaluations").iterdir()
    }
    assert set(places) == {"noted(beam=1)", "noted(beam=2)"}
    for beam in (1, 2):
        assert {
            line["hypothesis"]
            for line in harness.lines(places[f"noted(beam={beam})"] / "hypotheses.test.jsonl")
        } == {f"ba {beam}"}
    assert harness.result(folder) == before and not list(folder.rglob("*.unordered"))
    out = harness.cli(
        *scored,
        "-m",
        "decode.name=noted",
        "decode.settings.beam=1,2,3",
        "hydra/launcher=joblib",
        cwd=tmp_path,
    ).stdout
    assert "3 of 3 cells done" in out and len(list((folder / "evaluations").iterdir())) == 3
