"""A run over two hosts, which are network namespaces of this machine: the curve of two ranks on one host,
through a link that is cut and a rank that is killed; and an output folder that one of them does not see.
"""

import subprocess
import time
from pathlib import Path

import namespaces
import pytest
from harness import QUIET, SMALL, lines, result, run_folder, two_forks, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why := namespaces.why_not()), reason=why or "they can be made"),
]

LENGTH = [*SMALL, "trainer.max_steps=24", "trainer.eval_every=8", "trainer.batch_seconds=3", *QUIET]

# Steps take long enough to cut the link, and to kill a rank, between two of them.
SLOW = """
import os
import time
from pathlib import Path
from asr_exp.training import loop

train_step = loop.train_step

def slowly(setup, step, *rest):
    time.sleep(0.25)
    once = Path(__file__).with_name("kill")
    if os.environ["RANK"] == "1" and step == 12 and once.exists():
        once.unlink()
        os.kill(os.getpid(), 9)
    return train_step(setup, step, *rest)

loop.train_step = slowly
"""


@pytest.fixture(scope="module")
def one_host(corpus, tmp_path_factory):
    """The folder of a run of two ranks on one host."""
    place = tmp_path_factory.mktemp("one-host")
    for rank in two_forks(*corpus, *LENGTH, cwd=place):
        rank.wait()
    return run_folder(place)


@pytest.fixture
def hosts():
    with namespaces.TwoHosts() as made:
        yield made


@pytest.fixture
def slow(corpus, tmp_path):
    """The overrides of the same run, with slow steps, in a folder where nothing has run yet."""
    (tmp_path / "slow.py").write_text(SLOW)
    return [*corpus, *LENGTH, "trainer.log_every=1", "plugins=[slow]"]


def ended(agents: dict[str, subprocess.Popen], seconds: float = 150) -> dict[str, tuple[int, str]]:
    """The exit status and the terminal of each host."""
    end = time.monotonic() + seconds
    return {
        host: (agent.returncode, out)
        for host, agent in agents.items()
        for out, _ in [agent.communicate(timeout=end - time.monotonic())]
    }


def at_step(step: int, cwd: Path) -> None:
    wait_for(lambda: any(p.read_text().count("train/loss") >= step for p in cwd.rglob("metrics.jsonl")))


def same_run(one: Path, two: Path) -> None:
    """Losses, hypotheses and scores are the same to the last bit."""
    keys = ("step", "train/loss", "train/grad_norm", "dev/loss", "dev/wer")
    first, second = (
        [{k: v for k, v in a.items() if k in keys} for a in lines(f / "metrics.jsonl")] for f in (one, two)
    )
    assert first == second and len(first) > 24
    for name in ("losses.train.jsonl", "hypotheses.test.jsonl", "checkpoints/best/model.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    assert result(one)["splits"] == result(two)["splits"]


def test_each_host_with_a_cache_of_its_own_and_a_link_cut_for_five_seconds(one_host, slow, hosts, tmp_path):
    caches = {host: {"ASR_EXP_CACHE": str(tmp_path / f"cache-{host}")} for host in "ab"}
    agents = hosts.torchrun(*slow, cwd=tmp_path, of_host=caches)
    at_step(4, tmp_path)
    hosts.cut()
    time.sleep(5)
    hosts.mend()
    found = ended(agents)
    assert [status for status, _ in found.values()] == [0, 0], found
    assert "going on" not in found["a"][1].lower()  # neither host has started its rank again
    same_run(one_host, run_folder(tmp_path))
    assert all(any((tmp_path / f"cache-{host}").rglob("*.i16")) for host in "ab")


def test_a_rank_killed_on_the_other_host(one_host, slow, hosts, tmp_path):
    (tmp_path / "kill").touch()
    found = ended(hosts.torchrun(*slow, cwd=tmp_path, options=("--max-restarts", "2")))
    assert [status for status, _ in found.values()] == [0, 0], found
    assert not (tmp_path / "kill").exists() and "Going on from step 8 of 24" in found["a"][1]
    same_run(one_host, run_folder(tmp_path))


def test_a_link_cut_for_a_minute(one_host, slow, hosts, tmp_path):
    """torchrun gives up its rank after about a minute, or just not: the run saves, or goes on. torchrun
    itself may then wait up to five minutes for the other host's, so it is not waited for.
    """
    hosts.torchrun(*slow, cwd=tmp_path)
    at_step(10, tmp_path)
    hosts.cut()
    time.sleep(60)
    hosts.mend()
    folder = run_folder(tmp_path)
    wait_for(lambda: (folder / "result.json").exists(), 90)
    hosts.clear()
    if result(folder)["status"] != "finished":
        found = ended(hosts.torchrun(*slow, cwd=tmp_path))
        assert [status for status, _ in found.values()] == [0, 0], found
        assert "Going on from step" in found["a"][1]
    same_run(one_host, folder)


def test_a_machine_that_is_lost(one_host, slow, hosts, tmp_path):
    """The rank that is left does not wait for hours; the same command on both hosts goes on."""
    pytest.importorskip("asr_exp.runtime.heartbeat")
    agents = hosts.torchrun(*slow, cwd=tmp_path, ASR_EXP_SILENCE_SECONDS="12")
    at_step(10, tmp_path)
    hosts.cut()
    out, _ = agents["a"].communicate(timeout=90)
    assert agents["a"].returncode == 1 and "of rank 1 of host b" in out and "The same command goes on" in out
    hosts.clear()
    hosts.mend()
    found = ended(hosts.torchrun(*slow, cwd=tmp_path))
    assert [status for status, _ in found.values()] == [0, 0], found
    assert "Going on from step 8 of 24" in found["a"][1]
    same_run(one_host, run_folder(tmp_path))


def test_an_output_folder_that_the_other_host_does_not_see(corpus, hosts, tmp_path):
    hidden = tmp_path / "outputs"
    hidden.mkdir()
    found = ended(hosts.torchrun(*corpus, *LENGTH, cwd=tmp_path, hidden_from_b=hidden))
    assert all(status for status, _ in found.values())
    for host, (_, out) in found.items():
        (said,) = [line for line in out.splitlines() if line.startswith("error")]
        assert "of a (rank 0) is not seen on b (rank 1)" in said and "output_root=FOLDER" in said, host
        assert str(hidden) in said and "train   " not in out  # before any data was read
    # nothing is left of it but the lock
    assert [path.name for path in hidden.rglob("*") if path.is_file()] == [".lock"]
