"""What tests of whole runs share: tiny backbones of every family, a corpus of tones, and runs in this process
or another.
"""

import csv
import importlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from asr_exp.cli.main import main
from asr_exp.core.libraries import hide_broken_torchaudio

hide_broken_torchaudio()  # as every command does, before transformers is imported

FAMILIES = [
    ("wav2vec2", "group"),
    ("wav2vec2", "layer"),
    ("hubert", "group"),
    ("hubert", "layer"),
    ("wavlm", "group"),
    ("wavlm", "layer"),
    ("sew", "group"),
    ("sew-d", "group"),
    ("unispeech", "group"),
    ("unispeech", "layer"),
    ("unispeech-sat", "group"),
    ("data2vec-audio", "layer"),
]
NAMES = [f"{kind}-{norm}" for kind, norm in FAMILIES]
WORDS = {"ba": 250.0, "di": 500.0, "go": 900.0, "lu": 1600.0, "me": 2600.0}
SMALL = [
    "model=tiny-random",
    "model.config.conv_dim=[16,16,16,16]",
    "model.config.hidden_size=32",
    "model.config.num_hidden_layers=2",
    "model.config.intermediate_size=64",
    "model.config.num_conv_pos_embedding_groups=2",
]
QUIET = ["tracking=none", "trainer.precision=fp32", "trainer.device=cpu"]
TWO_STEPS = [*SMALL, "trainer.max_steps=2", "trainer.eval_every=1", "trainer.batch_seconds=4", *QUIET]


def settings(kind: str, norm: str, **more: Any) -> dict[str, Any]:
    """A config of a family that a CPU runs in no time."""
    small: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "conv_dim": [32] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
        "vocab_size": 32,
        "mask_time_length": 2,
    }
    if kind.startswith("sew"):
        small |= {"conv_dim": [32] * 13, "squeeze_factor": 2}
    if kind != "data2vec-audio":
        small["feat_extract_norm"] = norm
    if norm == "layer" and kind in ("wav2vec2", "hubert", "wavlm", "unispeech"):
        small |= {"do_stable_layer_norm": True, "conv_bias": True}
    return small | more


def save_backbone(kind: str, norm: str, folder: Path, **more: Any) -> Path:
    """An encoder of a family, as `save_pretrained` leaves it. Its weights are large enough that its outputs
    differ.
    """
    import transformers

    torch.manual_seed(0)
    network = transformers.AutoModel.from_config(
        transformers.AutoConfig.for_model(kind, **settings(kind, norm, **more))
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=norm == "layer").save_pretrained(folder)
    return folder


# ------------------------------------------------------------------------------------------------------------
# a corpus


def spoken(words: Iterable[str], rng: np.random.Generator, rate: int = 16000) -> np.ndarray:
    """Words as bursts of a tone each, over noise."""
    parts = []
    for word in words:
        time = np.arange(int(rate * rng.uniform(0.18, 0.3))) / rate
        burst = np.hanning(len(time)) * np.sin(2 * np.pi * WORDS[word] * rng.uniform(0.97, 1.03) * time)
        parts += [burst, np.zeros(int(rate * rng.uniform(0.03, 0.08)))]
    samples = np.concatenate(parts) * rng.uniform(0.2, 0.6)
    return (samples + 0.01 * rng.standard_normal(len(samples))).astype(np.float32)


def make_corpus(folder: Path, train: int = 20, rest: int = 5, rate: int = 16000, seed: int = 0) -> list[str]:
    """Write train.csv, dev.csv, test.csv and their clips -> the overrides that name them."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("dev", rest), ("test", rest)):
        rows = []
        for i in range(count):
            words = list(rng.choice(list(WORDS), size=rng.integers(1, 7)))
            soundfile.write(folder / f"{split}{i}.wav", spoken(words, rng, rate), rate, subtype="PCM_16")
            rows.append((f"{split}{i}.wav", " ".join(words), f"s{i % 2}"))
        write_manifest(folder / f"{split}.csv", rows)
    return ["dataset=csv", *(f"dataset.{split}={folder / split}.csv" for split in ("train", "dev", "test"))]


def write_manifest(path: Path, rows: Iterable[tuple], header: tuple = ("file", "text", "speaker")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


# ------------------------------------------------------------------------------------------------------------
# runs


def latest(overrides: Iterable[Any]) -> list[str]:
    """Overrides of which the last of a key counts; the program itself refuses a key given twice."""
    return list({word.partition("=")[0].lstrip("+"): word for word in map(str, overrides)}.values())


def environment(**more: str) -> dict[str, str]:
    return {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", **os.environ, "OMP_NUM_THREADS": "1", **more}


def start(*arguments: Any, cwd: Path, **more: str) -> subprocess.Popen:
    """`python -m asr_exp ARGUMENTS` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "asr_exp", *latest(arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**more),
    )


def cli(
    *arguments: Any, cwd: Path, status: int | None = 0, timeout: float = 300, **more: str
) -> subprocess.CompletedProcess:
    """`python -m asr_exp ARGUMENTS` to its end, which is to have this exit status (None: any)."""
    process = start(*arguments, cwd=cwd, **more)
    out, err = process.communicate(timeout=timeout)
    assert status in (None, process.returncode), f"exit status {process.returncode}\n{out}\n{err}"
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def call(*arguments: Any, cwd: Path, status: int = 0) -> None:
    """The same in this process: quicker, where neither a crash nor a signal is what is tested."""
    before = Path.cwd()
    os.chdir(cwd)
    try:
        assert main(latest(arguments)) == status
    finally:
        os.chdir(before)


def run(*arguments: Any, cwd: Path, status: int = 0) -> Path:
    """The same of what makes a run, or uses one of its folder -> the run's folder."""
    call(*arguments, cwd=cwd, status=status)
    root = dict(word.split("=", 1) for word in map(str, arguments) if "=" in word).get("output_root")
    return run_folder(Path(root or cwd)) if status == 0 else cwd


FORKS = multiprocessing.get_context("forkserver")
LOADED = [
    "harness",
    "asr_exp.commands.train.command",
    "asr_exp.commands.evaluate",
    "transformers.models.wav2vec2.modeling_wav2vec2",
]
FORKS.set_forkserver_preload(LOADED)


class Fork:
    """A run in a process of its own that has the libraries loaded already: quicker than `cli`, and as easy to
    kill.

    patch: a function of a test module, and its arguments, called in that process before the run.
    """

    def __init__(self, *arguments: Any, cwd: Path, patch: tuple | None = None, **more: str):
        self.terminal = cwd / f"terminal{more.get('RANK', '')}.txt"
        self.terminal.write_text("")
        self._process = FORKS.Process(
            target=_in_fork, args=(latest(arguments), cwd, self.terminal, patch, environment(**more))
        )
        self._process.start()

    def send(self, number: int) -> None:
        os.kill(self._process.pid or 0, number)

    def wait(self, status: int | None = 0, timeout: float = 120) -> str:
        """What it printed, once it has ended with this status (minus the signal that killed it; None:
        any).
        """
        self._process.join(timeout)
        out = self.terminal.read_text()
        assert self._process.exitcode is not None, f"still at work\n{out}"
        assert status in (None, self._process.exitcode), f"exit status {self._process.exitcode}\n{out}"
        return out


def _in_fork(
    arguments: list[str], cwd: Path, terminal: Path, patch: tuple | None, environ: dict[str, str]
) -> None:
    os.chdir(cwd)
    os.environ.update(environ)
    with terminal.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    if patch:
        patch[0](*patch[1:])
    status = main(arguments)
    sys.stdout.flush()
    os._exit(status)


def fork(*arguments: Any, cwd: Path, status: int | None = 0, patch: tuple | None = None) -> str:
    """A forked run to its end -> what it printed."""
    return Fork(*arguments, cwd=cwd, patch=patch).wait(status)


def two_forks(*arguments: Any, cwd: Path, patch: tuple | None = None) -> list[Fork]:
    """The same run as two ranks, as `trainer.devices=2` starts them."""
    shared = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    return [
        Fork(*arguments, cwd=cwd, patch=patch, RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank in (0, 1)
    ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def intercept(name: str, act: Callable[[], object], call: int = 1, after: bool = False) -> None:
    """Have `act` called at the n-th call of `package.module.function` (or of a method), before it or after
    it.
    """
    path, function = name.rsplit(".", 1)
    try:
        owner: Any = importlib.import_module(path)
    except ModuleNotFoundError:
        module, cls = path.rsplit(".", 1)
        owner = getattr(importlib.import_module(module), cls)
    original, calls = getattr(owner, function), 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            act()
        value = original(*args, **kwargs)
        if calls == call and after:
            act()
        return value

    setattr(owner, function, wrapped)


def killed_at(name: str, call: int = 1, after: bool = False) -> None:
    """kill -9 of this process at the n-th call of a function."""
    intercept(name, lambda: os.kill(os.getpid(), signal.SIGKILL), call, after)


def signalled_at(name: str, number: int, call: int = 1, after: bool = False) -> None:
    intercept(name, lambda: os.kill(os.getpid(), number), call, after)


def wait_for(true: Callable[[], object], seconds: float = 120, told: Callable[[], str] = lambda: "") -> None:
    """Wait until something is true, and fail where it is not in time. told: what then helps to see why."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"it does not come\n{told()}"
        time.sleep(0.05)


def run_folder(cwd: Path) -> Path:
    """The one run under a folder."""
    (found,) = {path.parent for path in cwd.rglob("config.yaml") if "conf" not in path.parts}
    return found


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def losses(folder: Path) -> list[float]:
    return [line["train/loss"] for line in lines(folder / "metrics.jsonl") if "train/loss" in line]


def one_sentence(done: subprocess.CompletedProcess) -> str:
    """What a run that could not be said on stderr, once it is sure that this was no traceback."""
    assert done.returncode == 2, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(told) == 1, done.stderr
    return told[0]
