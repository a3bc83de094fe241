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
from harness import QUIET, cli, environment, lines, losses, one_sentence, result, run, run_folder

from asr_exp.data.batching import BatchPlan

pytestmark = pytest.mark.slow

# Masks and layerdrop on; dropout, which is drawn for a whole batch at once, off. Batches so small that some hold one utterance.
RANDOM = ["augment.mask_time_prob=0.3", "augment.mask_time_length=2", "augment.mask_feature_prob=0.2", "augment.mask_feature_length=4",
          "augment.dropout=0", "augment.layerdrop=0.4"]  # fmt: skip
SHORT = ["trainer.max_steps=16", "trainer.eval_every=8", "trainer.batch_seconds=2.5", "trainer.device_seconds=4", "optimizer.lr=1e-3", *QUIET]


def torchrun(*options: str, overrides: list[str], cwd: Path, **more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *options, "-m", "asr_exp", *overrides], cwd=cwd, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, env=environment(**more),
    )  # fmt: skip


def ended(process: subprocess.Popen, status: int = 0) -> str:
    out, _ = process.communicate(timeout=240)
    assert process.returncode == status, out
    return out


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def asked(corpus: list[str], folder: Path) -> list[str]:
    return [*corpus, "model=hf", f"model.checkpoint={folder}", "model.freeze_front_end=false", *RANDOM, *SHORT]


def same_curve(one: Path, two: Path) -> None:
    first, second = lines(one / "metrics.jsonl"), lines(two / "metrics.jsonl")
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in ("train/loss", "dev/loss"):
            assert a.get(name) == pytest.approx(b.get(name), rel=1e-5), (name, a["step"])
        assert a.get("train/grad_norm") == pytest.approx(b.get("train/grad_norm"), rel=1e-3)
    assert result(one)["splits"]["test"] == result(two)["splits"]["test"]


@pytest.fixture(scope="module")
def alone(corpus, backbone, tmp_path_factory):
    """alone(name) -> the run of one process, made once."""
    made = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = run(*asked(corpus, backbone(name)), cwd=tmp_path_factory.mktemp(f"alone-{name}"))
        return made[name]

    return make


def test_some_steps_hold_one_utterance_and_most_are_uneven(corpus):
    folder = Path(corpus[1].partition("=")[2]).parent
    seconds = np.array([soundfile.info(folder / f"train{i}.wav").duration for i in range(20)])
    plan = BatchPlan(seconds, 2.5, 4, seed=42)
    counts = [len(plan.step(s)) for s in range(1, 17)]
    assert min(counts) == 1 and max(counts) > 2 and sum(c % 2 for c in counts) > 3
    assert any(not plan.passes(s, 1, 2) for s in range(1, 17)) and any(len(plan.passes(s, 0, 2)) > 1 for s in range(1, 17))


@pytest.mark.parametrize("name", ["wav2vec2-group", "wavlm-layer"])
def test_two_devices(alone, corpus, backbone, tmp_path, name):
    cli(*asked(corpus, backbone(name)), "trainer.devices=2", cwd=tmp_path)
    same_curve(alone(name), run_folder(tmp_path))
    assert run_folder(tmp_path).name == alone(name).name  # the number of devices is no part of what is asked
    assert json.loads((run_folder(tmp_path) / "environment.json").read_text())["devices"] == 2


def test_torchrun(alone, corpus, backbone, tmp_path):
    ended(torchrun("--nproc-per-node", "2", "--master-port", str(free_port()), overrides=asked(corpus, backbone("wav2vec2-group")), cwd=tmp_path))
    same_curve(alone("wav2vec2-group"), run_folder(tmp_path))


def test_two_nodes(alone, corpus, backbone, tmp_path):
    address = ("--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(free_port()))
    overrides = asked(corpus, backbone("wav2vec2-group"))
    agents = [torchrun(*address, "--node-rank", str(rank), overrides=overrides, cwd=tmp_path) for rank in (0, 1)]
    for agent in agents:
        ended(agent)
    same_curve(alone("wav2vec2-group"), run_folder(tmp_path))


FATAL = '''
import os
from pathlib import Path
from asr_exp import training

step_of = training.train_step

def train_step(job, step, batches):
    once = Path(__file__).with_name("killed")
    if job.runtime.rank == 1 and step == 11 and not once.exists():
        once.touch()
        os.kill(os.getpid(), 9)
    return step_of(job, step, batches)

training.train_step = train_step
'''


def test_a_rank_killed_under_torchrun_starts_again_by_itself(corpus, backbone, tmp_path):
    overrides = [*asked(corpus, backbone("wav2vec2-group")), "plugins=[fatal]"]
    for place in ("whole", "killed"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "fatal.py").write_text(FATAL)
    (tmp_path / "whole" / "killed").touch()
    whole = run_folder_of(overrides, tmp_path / "whole")
    killed = run_folder_of(overrides, tmp_path / "killed")
    assert (tmp_path / "killed" / "killed").exists()
    assert "Going on from step 8 of 16" in (killed / "train.log").read_text()
    assert (whole / "metrics.jsonl").read_bytes() == (killed / "metrics.jsonl").read_bytes()
    assert result(whole)["splits"] == result(killed)["splits"]


def run_folder_of(overrides: list[str], cwd: Path) -> Path:
    ended(torchrun("--nproc-per-node", "2", "--max-restarts", "2", "--master-port", str(free_port()), overrides=overrides, cwd=cwd))
    return run_folder(cwd)


def test_scores_do_not_depend_on_the_ranks(alone, tmp_path):
    folder = alone("wavlm-layer")
    before = {name: (folder / name).read_bytes() for name in ("hypotheses.test.jsonl", "result.json")}
    cli("evaluate", f"run={folder}", "trainer.devices=2", *QUIET[1:], cwd=tmp_path)
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_averaging_and_a_moving_average_on_two_ranks(corpus, backbone, tmp_path):
    overrides = [*asked(corpus, backbone("wav2vec2-group")), "trainer.eval_every=5"]
    for extra in ("trainer.average=2", "trainer.ema=0.9"):
        one, two = tmp_path / extra / "1", tmp_path / extra / "2"
        one.mkdir(parents=True)
        two.mkdir()
        cli(*overrides, extra, "trainer.devices=2", cwd=two)
        same_curve(run(*overrides, extra, cwd=one), run_folder(two))


def test_a_rank_that_dies_takes_the_others_along(corpus, backbone, tmp_path):
    (tmp_path / "fatal.py").write_text(FATAL)
    done = cli(*asked(corpus, backbone("wav2vec2-group")), "plugins=[fatal]", "trainer.devices=2", cwd=tmp_path, status=1)
    assert "Traceback" not in done.stderr and "the same command goes on" in done.stderr
    cli(*asked(corpus, backbone("wav2vec2-group")), "plugins=[fatal]", "trainer.devices=2", cwd=tmp_path)
    assert result(run_folder(tmp_path))["status"] == "finished"


SLOW = '''
import time
from asr_exp import training

step_of = training.train_step

def train_step(*args):
    time.sleep(0.3)
    return step_of(*args)

training.train_step = train_step
'''


def test_ranks_end_with_the_process_that_started_them(corpus, backbone, tmp_path):
    """After kill -9 of `trainer.devices=2` no orphan holds the run folder, and the same command goes on."""
    (tmp_path / "slow.py").write_text(SLOW)
    overrides = [*asked(corpus, backbone("wav2vec2-group")), "plugins=[slow]", "trainer.devices=2"]
    process = subprocess.Popen([sys.executable, "-m", "asr_exp", *overrides], cwd=tmp_path, stdout=subprocess.DEVNULL, env=environment())
    wait_for(lambda: any(tmp_path.rglob("checkpoints/last")))
    ranks = [int(p) for p in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(ranks) == 2
    process.kill()
    process.wait()
    wait_for(lambda: not any(alive(pid) for pid in ranks))
    cli(*overrides, cwd=tmp_path)
    assert "Going on from step 8" in (run_folder(tmp_path) / "train.log").read_text()


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


def test_sigterm_stops_all_ranks_and_saves(corpus, backbone, tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    overrides = [*asked(corpus, backbone("wav2vec2-group")), "plugins=[slow]", "trainer.log_every=1"]
    process = subprocess.Popen([sys.executable, "-m", "asr_exp", *overrides, "trainer.devices=2"], cwd=tmp_path, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, env=environment())  # fmt: skip
    wait_for(lambda: any(p.stat().st_size for p in tmp_path.rglob("metrics.jsonl")))
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in out + err, out + err
    folder = run_folder(tmp_path)
    assert result(folder)["status"] == "stopped" and (folder / "checkpoints/last").is_dir()
    assert 0 < len(losses(folder)) < 16
    cli(*overrides, "trainer.devices=2", cwd=tmp_path)
    cut, whole = tmp_path / "whole", run_folder(tmp_path)
    cut.mkdir()
    (cut / "slow.py").write_text("")
    assert losses(whole) == pytest.approx(losses(run(*overrides, cwd=cut)), rel=1e-5)


def test_no_sweep_under_torchrun(corpus, tmp_path):
    out = ended(torchrun("--nproc-per-node", "2", "--master-port", str(free_port()), overrides=["-m", "seed=0,1", *corpus], cwd=tmp_path), status=1)
    assert "-m under torchrun" in out and "trainer.devices=N" in out
    assert not any(tmp_path.rglob("config.yaml"))


def test_a_mistake_is_told_once(corpus, tmp_path):
    done = cli(*corpus, "model=tiny", "trainer.precision=fp16", "trainer.devices=2", *QUIET[:1], "trainer.device=cpu", cwd=tmp_path, status=None)
    assert "fp16" in one_sentence(done)
