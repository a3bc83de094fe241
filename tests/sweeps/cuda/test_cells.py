"""Cells of a parallel sweep, each on a device of its own."""

import json

import pytest
from fake_cuda import needs_fake_cuda, on_fake_cuda
from harness import SMALL
from sweeping import EXTRAS, LR, cells

pytestmark = [needs_fake_cuda, pytest.mark.slow]

SWEEP = [
    *("-m", *SMALL, "model.config.num_attention_heads=2", "trainer.max_steps=2", "trainer.eval_every=2"),
    *("trainer.batch_seconds=4", "tracking=none"),
]


@pytest.fixture
def swept(corpus, tmp_path):
    """swept(launcher, WORD, ...) -> what the sweep printed, and the devices of each of its runs."""

    def run(launcher, *words, devices=2):
        pytest.importorskip(EXTRAS[launcher])
        at_once = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
        asked = [*corpus, *SWEEP, f"hydra/launcher={launcher}", *at_once, *words]
        place = tmp_path / "locks"  # those of another sweep of this machine's are no matter here
        place.mkdir()
        done = on_fake_cuda(
            "-m", "asr_exp", *asked, cwd=tmp_path, devices=devices, TMPDIR=place, OMP_NUM_THREADS=1
        )
        assert {row["status"] for row in cells(tmp_path)} == {"finished"}
        found = [json.loads(file.read_text()) for file in tmp_path.rglob("environment.json")]
        return done.stdout, [one["gpu"]["devices"] for one in found]

    return run


def test_workers_of_joblib(swept):
    out, devices = swept("joblib", "seed=1,2,3", "trainer.device=cuda")
    assert "3 of 3 cells done" in out and "share" not in out
    assert sorted(map(tuple, devices))[::2] == [("cuda:0",), ("cuda:1",)] and len(devices) == 3


def test_jobs_of_submitit_local_which_shows_them_none(swept):
    out, devices = swept("submitit_local", "seed=1,2")
    assert "2 of 2 cells done" in out
    assert sorted(devices) == [["cuda:0"], ["cuda:1"]]


def test_cells_of_two_ranks(swept):
    _, devices = swept("joblib", "seed=1,2", "trainer.devices=2", devices=4)
    assert sorted(sum(devices, [])) == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]


def test_workers_of_a_search(swept):
    out, devices = swept("joblib", "sweeper=optuna", LR, "sweep.trials=2", "sweep.workers=2", devices=1)
    assert "2 of 2 cells done" in out and devices == [["cuda:0"]] * 2
