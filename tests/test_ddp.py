"""Two processes walk the curve of one: by `trainer.devices`, by torchrun, over two nodes, and after one of them was killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from harness import QUIET, cli, environment, lines, losses, result, run, run_folder

from asr_exp.checkpoint import locked
from asr_exp.data.batching import BatchPlan

pytestmark = pytest.mark.slow

# Masks and layerdrop on; dropout, which is drawn for a whole batch at once, off. Batches so small that some hold one utterance.
RANDOM = ["augment.mask_time_prob=0.3", "augment.mask_time_length=2", "augment.mask_feature_prob=0.2", "augment.mask_feature_length=4",
          "augment.dropout=0", "augment.layerdrop=0.4"]  # fmt: skip
SHORT = ["trainer.max_steps=12", "trainer.eval_every=6", "trainer.batch_seconds=2.5", "trainer.device_seconds=4", "optimizer.lr=1e-3"]
BESIDES = {"wav2vec2-group": ["trainer.ema=0.9"], "wavlm-layer": ["trainer.average=2"]}


def torchrun(*options: str, overrides: list[str], cwd: Path, **more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *options, "-m", "asr_exp", *overrides], cwd=cwd, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, env=environment(**more),
    )  # fmt: skip


def two_ranks() -> tuple[str, ...]:
    return ("--nproc-per-node", "2", "--master-port", str(free_port()))


def ended(process: subprocess.Popen, status: int = 0) -> str:
    out, _ = process.communicate(timeout=240)
    assert process.returncode == status, out
    return out


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def asked(corpus, backbone):
    """asked(name) -> the overrides of a run of that backbone."""

    def make(name: str) -> list[str]:
        model = ["model=hf", f"model.checkpoint={backbone(name)}", "model.freeze_front_end=false"]
        return [*corpus, *model, *RANDOM, *SHORT, *BESIDES[name], *QUIET]

    return make


def same_curve(one: Path, two: Path) -> None:
    first, second = lines(one / "metrics.jsonl"), lines(two / "metrics.jsonl")
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in {"train/loss", "dev/loss", "train/grad_norm"} & a.keys():
            assert a[name] == pytest.approx(b[name], rel=1e-3 if name == "train/grad_norm" else 1e-5), (name, a["step"])
    assert result(one)["splits"]["test"] == result(two)["splits"]["test"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """alone(overrides) -> the run of one process, made once."""
    made = {}

    def make(overrides: list[str]) -> Path:
        name = " ".join(overrides)
        if name not in made:
            made[name] = run(*overrides, cwd=tmp_path_factory.mktemp("alone"))
        return made[name]

    return make


def test_some_steps_hold_one_utterance_and_most_are_uneven(corpus):
    folder = Path(corpus[1].partition("=")[2]).parent
    seconds = np.array([soundfile.info(folder / f"train{i}.wav").duration for i in range(20)])
    plan = BatchPlan(seconds, 2.5, 4, seed=42)
    counts = [len(plan.step(s)) for s in range(1, 13)]
    assert min(counts) == 1 and max(counts) > 2 and sum(c % 2 for c in counts) > 3
    assert any(not plan.passes(s, 1, 2) for s in range(1, 13)) and any(len(plan.passes(s, 0, 2)) > 1 for s in range(1, 13))


@pytest.mark.parametrize("name", ["wav2vec2-group", "wavlm-layer"])
def test_two_devices(alone, asked, tmp_path, name):
    cli(*asked(name), "trainer.devices=2", cwd=tmp_path)
    same_curve(alone(asked(name)), run_folder(tmp_path))
    assert run_folder(tmp_path).name == alone(asked(name)).name  # the number of devices is no part of what is asked
    assert json.loads((run_folder(tmp_path) / "environment.json").read_text())["devices"] == 2


def test_torchrun(alone, asked, tmp_path):
    ended(torchrun(*two_ranks(), overrides=asked("wav2vec2-group"), cwd=tmp_path))
    same_curve(alone(asked("wav2vec2-group")), run_folder(tmp_path))


def test_two_nodes(alone, asked, tmp_path):
    address = ("--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(free_port()))
    overrides = asked("wav2vec2-group")
    agents = [torchrun(*address, "--node-rank", str(rank), overrides=overrides, cwd=tmp_path) for rank in (0, 1)]
    for agent in agents:
        ended(agent)
    same_curve(alone(asked("wav2vec2-group")), run_folder(tmp_path))


FATAL = '''
import os
from pathlib import Path
from asr_exp import training

step_of = training.train_step

def train_step(job, step, batches):
    once = Path(__file__).with_name("killed")
    if job.runtime.rank == 1 and step == 9 and not once.exists():
        once.touch()
        os.kill(os.getpid(), 9)
    return step_of(job, step, batches)

training.train_step = train_step
'''


def test_a_rank_killed_under_torchrun_starts_again_by_itself(asked, tmp_path):
    overrides = [*asked("wav2vec2-group"), "plugins=[fatal]"]
    for place in ("whole", "killed"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "fatal.py").write_text(FATAL)
    (tmp_path / "whole" / "killed").touch()
    whole, killed = (restarted(overrides, tmp_path / place) for place in ("whole", "killed"))
    assert (tmp_path / "killed" / "killed").exists()
    assert "Going on from step 6 of 12" in (killed / "train.log").read_text()
    assert (whole / "metrics.jsonl").read_bytes() == (killed / "metrics.jsonl").read_bytes()
    assert result(whole)["splits"] == result(killed)["splits"]


def restarted(overrides: list[str], cwd: Path) -> Path:
    ended(torchrun(*two_ranks(), "--max-restarts", "2", overrides=overrides, cwd=cwd))
    return run_folder(cwd)


def test_scores_do_not_depend_on_the_ranks(alone, asked, tmp_path):
    folder = alone(asked("wavlm-layer"))
    before = {name: (folder / name).read_bytes() for name in ("hypotheses.test.jsonl", "result.json")}
    cli("evaluate", f"run={folder}", "trainer.devices=2", *QUIET[1:], cwd=tmp_path)
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_a_rank_that_dies_takes_the_others_along(asked, tmp_path):
    (tmp_path / "fatal.py").write_text(FATAL)
    done = cli(*asked("wav2vec2-group"), "plugins=[fatal]", "trainer.devices=2", cwd=tmp_path, status=1)
    assert "Traceback" not in done.stderr and "the same command goes on" in done.stderr
    assert result(run_folder(tmp_path))["status"] == "failed"


SLOW = '''
import os, time
from asr_exp import training

step_of = training.train_step

def train_step(*args):
    time.sleep(0.5)
    return step_of(*args)

if "RANK" in os.environ:  # not in the process of the tests
    training.train_step = train_step
'''


def test_ranks_end_with_the_process_that_started_them(asked, tmp_path):
    """After kill -9 of `trainer.devices=2` no orphan holds the run folder, and the same command goes on."""
    (tmp_path / "slow.py").write_text(SLOW)
    overrides = [*asked("wav2vec2-group"), "plugins=[slow]", "trainer.devices=2"]
    process = subprocess.Popen([sys.executable, "-m", "asr_exp", *overrides], cwd=tmp_path, stdout=subprocess.DEVNULL, env=environment())
    wait_for(lambda: any(tmp_path.rglob("checkpoints/last")))
    ranks = [int(p) for p in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(ranks) == 2
    process.kill()
    process.wait()
    wait_for(lambda: not any(alive(pid) for pid in ranks))
    with locked(run_folder(tmp_path)):
        pass


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(true, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.05)


def test_sigterm_stops_all_ranks_and_saves(alone, asked, tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text(SLOW)
    overrides = [*asked("wav2vec2-group"), "plugins=[slow]", "trainer.log_every=1"]
    process = subprocess.Popen([sys.executable, "-m", "asr_exp", *overrides, "trainer.devices=2"], cwd=tmp_path, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, env=environment())  # fmt: skip
    wait_for(lambda: any(p.stat().st_size for p in tmp_path.rglob("metrics.jsonl")))
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in out + err, out + err
    folder = run_folder(tmp_path)
    assert result(folder)["status"] == "stopped" and (folder / "checkpoints/last").is_dir()
    assert 0 < len(losses(folder)) < 12
    monkeypatch.syspath_prepend(tmp_path)
    same_curve(alone(asked("wav2vec2-group")), run(*overrides, cwd=tmp_path))  # two ranks began it, one goes on


def test_no_sweep_under_torchrun(corpus, tmp_path):
    out = ended(torchrun(*two_ranks(), overrides=["-m", "seed=0,1", *corpus], cwd=tmp_path), status=1)
    assert "-m under torchrun" in out and "trainer.devices=N" in out
    assert not any(tmp_path.rglob("config.yaml"))


def test_a_mistake_is_no_crash(corpus, tmp_path):
    done = cli(*corpus, "model=tiny", "trainer.precision=fp16", "trainer.device=cpu", "trainer.devices=2", "tracking=none", cwd=tmp_path, status=2)
    assert "fp16 needs a GPU" in done.stderr and "Traceback" not in done.stdout + done.stderr
