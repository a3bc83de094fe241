"""Two processes walk the curve of one: by `trainer.devices`, by torchrun, over two nodes, and after one of
them was killed.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from harness import (
    QUIET,
    cli,
    environment,
    free_port,
    killed_at,
    lines,
    losses,
    result,
    run,
    run_folder,
    two_forks,
    wait_for,
)

from asr_exp.core.errors import UserError
from asr_exp.core.files import locked
from asr_exp.data.batch_plan import BatchPlan

pytestmark = pytest.mark.slow

# Masks and layerdrop on; dropout, which is drawn for a whole batch at once, off. Batches so small that some
# hold one utterance.
RANDOM = [
    "augment.mask_time_prob=0.3",
    "augment.mask_time_length=2",
    "augment.mask_feature_prob=0.2",
    "augment.mask_feature_length=4",
    "augment.dropout=0",
    "augment.layerdrop=0.4",
]
SHORT = [
    "trainer.max_steps=12",
    "trainer.eval_every=6",
    "trainer.batch_seconds=3",
    "trainer.device_seconds=1",
    "optimizer.lr=1e-3",
]
BESIDES = {"wav2vec2-group": ["trainer.ema=0.9"], "wavlm-layer": ["trainer.average=2"]}


def torchrun(*options: str, overrides: list[str], cwd: Path, **more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *options, "-m", "asr_exp", *overrides],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(**more),
    )


def two_ranks() -> tuple[str, ...]:
    return ("--nproc-per-node", "2", "--master-port", str(free_port()))


def ended(process: subprocess.Popen, status: int = 0) -> str:
    out, _ = process.communicate(timeout=240)
    assert process.returncode == status, out
    return out


def overrides_of(corpus: list[str], backbone: Callable[[str], Path], name: str) -> list[str]:
    model = ["model=hf", f"model.checkpoint={backbone(name)}", "model.freeze_front_end=false"]
    return [*corpus, *model, *RANDOM, *SHORT, *BESIDES.get(name, []), *QUIET]


@pytest.fixture
def asked(corpus, backbone):
    """asked(name) -> the overrides of a run of that backbone."""
    return lambda name: overrides_of(corpus, backbone, name)


def same_curve(one: Path, two: Path) -> None:
    first, second = lines(one / "metrics.jsonl"), lines(two / "metrics.jsonl")
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in {"train/loss", "dev/loss", "train/grad_norm"} & a.keys():
            assert a[name] == pytest.approx(b[name], rel=1e-3 if name == "train/grad_norm" else 1e-5), (
                name,
                a["step"],
            )
    for a, b in zip(lines(one / "losses.train.jsonl"), lines(two / "losses.train.jsonl"), strict=True):
        assert a["utterances"] == b["utterances"] and a["losses"] == pytest.approx(
            b["losses"], rel=1e-4, abs=2e-4
        )
    assert result(one)["splits"]["test"] == result(two)["splits"]["test"]


def test_some_steps_hold_one_utterance_and_most_are_uneven(corpus):
    folder = Path(corpus[1].partition("=")[2]).parent
    seconds = np.array([soundfile.info(folder / f"train{i}.wav").duration for i in range(20)])
    plan = BatchPlan(seconds, 3, 1, seed=42)
    counts = [len(plan.step(s)) for s in range(1, 13)]
    assert min(counts) == 1 and max(counts) > 2 and sum(c % 2 for c in counts) > 2
    assert any(not plan.micro_batches(s, 1, 2) for s in range(1, 13)) and any(
        len(plan.micro_batches(s, 0, 2)) > 1 for s in range(1, 13)
    )


def test_two_devices(alone, asked, tmp_path):
    cli(*asked("wav2vec2-group"), "trainer.devices=2", cwd=tmp_path)
    same_curve(alone(asked("wav2vec2-group")), run_folder(tmp_path))
    # the number of devices is no part of what is asked
    assert run_folder(tmp_path).name == alone(asked("wav2vec2-group")).name
    assert json.loads((run_folder(tmp_path) / "environment.json").read_text())["devices"] == 2


def test_two_ranks_with_layer_norm_and_averaging(alone, asked, tmp_path):
    for rank in two_forks(*asked("wavlm-layer"), cwd=tmp_path):
        rank.wait()
    same_curve(alone(asked("wavlm-layer")), run_folder(tmp_path))


@pytest.fixture(scope="module")
def by_torchrun(corpus, backbone, tmp_path_factory):
    """The folder of a run of two ranks under torchrun."""
    place = tmp_path_factory.mktemp("torchrun")
    ended(torchrun(*two_ranks(), overrides=overrides_of(corpus, backbone, "wav2vec2-group"), cwd=place))
    return run_folder(place)


def test_torchrun(alone, asked, by_torchrun):
    same_curve(alone(asked("wav2vec2-group")), by_torchrun)


def test_two_nodes(alone, asked, tmp_path):
    address = (
        "--nnodes",
        "2",
        "--nproc-per-node",
        "1",
        "--master-addr",
        "127.0.0.1",
        "--master-port",
        str(free_port()),
    )
    agents = [
        torchrun(*address, "--node-rank", str(rank), overrides=asked("wav2vec2-group"), cwd=tmp_path)
        for rank in (0, 1)
    ]
    for agent in agents:
        ended(agent)
    same_curve(alone(asked("wav2vec2-group")), run_folder(tmp_path))


FATAL = """
import os
from pathlib import Path
from asr_exp.training import loop as training

step_of = training.train_step

def train_step(job, step, batches):
    once = Path(__file__).with_name("killed")
    if job.runtime.rank == 1 and step == 9 and not once.exists():
        once.touch()
        os.kill(os.getpid(), 9)
    return step_of(job, step, batches)

training.train_step = train_step
"""


def test_a_rank_killed_under_torchrun_starts_again_by_itself(by_torchrun, asked, tmp_path):
    (tmp_path / "fatal.py").write_text(FATAL)
    overrides = [*asked("wav2vec2-group"), "plugins=[fatal]"]
    ended(torchrun(*two_ranks(), "--max-restarts", "2", overrides=overrides, cwd=tmp_path))
    folder = run_folder(tmp_path)
    assert (tmp_path / "killed").exists() and "Going on from step 6 of 12" in (
        folder / "train.log"
    ).read_text()
    assert (folder / "metrics.jsonl").read_bytes() == (by_torchrun / "metrics.jsonl").read_bytes()
    assert result(folder)["splits"] == result(by_torchrun)["splits"]


def test_scores_do_not_depend_on_the_ranks(alone, asked, tmp_path):
    folder = alone(asked("wavlm-layer"))
    before = {name: (folder / name).read_bytes() for name in ("hypotheses.test.jsonl", "result.json")}
    for rank in two_forks("evaluate", f"run={folder}", *QUIET[1:], cwd=tmp_path):
        rank.wait()
    assert {name: (folder / name).read_bytes() for name in before} == before


def die_at_step_9_on_rank_1() -> None:
    if os.environ["RANK"] == "1":
        killed_at("asr_exp.training.loop.train_step", 9)


def test_a_rank_that_dies_takes_the_others_along(asked, tmp_path):
    first, second = two_forks(*asked("wav2vec2-group"), cwd=tmp_path, patch=(die_at_step_9_on_rank_1,))
    second.wait(status=-9)
    out = first.wait(status=1)
    assert "Traceback" not in out and "the same command goes on" in out
    assert result(run_folder(tmp_path))["status"] == "failed"


SLOW = """
import os, time
from asr_exp.training import loop as training

step_of = training.train_step

def train_step(*args):
    time.sleep(0.5)
    return step_of(*args)

if "RANK" in os.environ:  # not in the process of the tests
    training.train_step = train_step
"""


def test_ranks_end_with_the_process_that_started_them(asked, tmp_path):
    """After kill -9 of `trainer.devices=2` no orphan holds the run folder, and the same command goes on."""
    (tmp_path / "slow.py").write_text(SLOW)
    overrides = [*asked("wav2vec2-group"), "plugins=[slow]", "trainer.devices=2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "asr_exp", *overrides],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        env=environment(),
    )
    wait_for(lambda: any(tmp_path.rglob("checkpoints/last")))
    ranks = [int(p) for p in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(ranks) == 2
    process.kill()
    process.wait()
    wait_for(lambda: not any(alive(pid) for pid in ranks))
    wait_for(lambda: free(run_folder(tmp_path)), 10)


def free(folder: Path) -> bool:
    try:
        with locked(folder):
            return True
    except UserError:
        return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_sigterm_stops_all_ranks_and_saves(alone, asked, tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text(SLOW)
    overrides = [*asked("wav2vec2-group"), "plugins=[slow]", "trainer.log_every=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "asr_exp", *overrides, "trainer.devices=2"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    wait_for(lambda: any(p.stat().st_size for p in tmp_path.rglob("metrics.jsonl")))
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in out + err, out + err
    folder = run_folder(tmp_path)
    assert result(folder)["status"] == "stopped" and (folder / "checkpoints/last").is_dir()
    assert 0 < len(losses(folder)) < 12
    monkeypatch.syspath_prepend(tmp_path)
    # two ranks began it, one goes on
    same_curve(alone(asked("wav2vec2-group")), run(*overrides, cwd=tmp_path))


def test_no_sweep_under_torchrun(corpus, tmp_path):
    out = ended(torchrun(*two_ranks(), overrides=["-m", "seed=0,1", *corpus], cwd=tmp_path), status=1)
    assert "-m under torchrun" in out and "trainer.devices=N" in out
    assert not any(tmp_path.rglob("config.yaml"))
