"""Runs by the command line on a corpus of tones: one uninterrupted, one asked to leave and given again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asr_exp.config.schema import key_field
from benchmarks.cuda.parts import Bench, Row, check

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from harness import make_corpus, run_folder  # noqa: E402

CLOSE = 1e-3  # relative: atomic additions come in any order on a GPU, and training carries that on


def run(bench: Bench) -> Iterator[Row]:
    """Rows of `check`."""
    steps = 40 if bench.quick else 200
    corpus = make_corpus(bench.scratch / "tones", train=30, rest=6)
    exact = key_field("trainer.deterministic") is not None
    words = [*corpus, *_network(bench, steps), *["trainer.deterministic=true"] * exact]
    whole = _start(bench, "whole", *words)
    part = _start(bench, "part", *words)
    stopped_at = _interrupt(bench.scratch / "part", part, steps)
    status, said = _wait(part, bench)
    yield check("exit status after SIGUSR1", status, 128 + signal.SIGUSR1, below=False) | {
        "holds": status == 128 + signal.SIGUSR1,
        "bound": f"= {128 + signal.SIGUSR1:d}",
        "note": f"sent after step {stopped_at}; it said: {(said.strip().splitlines() or [''])[-1]}",
    }
    resumed = _start(bench, "part", *words)
    for what, process in (("uninterrupted", whole), ("resumed", resumed)):
        status, said = _wait(process, bench)
        yield _status(f"exit status, {what}", status, said)
    yield from _same(bench.scratch / "whole", bench.scratch / "part", exact)
    folder = run_folder(bench.scratch / "whole")
    clip = bench.scratch / "tones" / "test0.wav"
    after = {
        "evaluate": ["evaluate", f"run={folder}"],
        "transcribe": ["transcribe", str(clip), f"run={folder}", f"trainer.device={bench.device}"],
    }
    running = {what: _start(bench, what, *arguments) for what, arguments in after.items()}
    for what, process in running.items():
        status, said = _wait(process, bench)
        yield _status(f"exit status, {what}", status, said)


def _network(bench: Bench, steps: int) -> list[str]:
    return [
        "model=tiny-random",
        "model.config.hidden_size=128",
        "model.config.num_hidden_layers=2",
        "augment=none",
        "augment.speed=[]",
        f"trainer.max_steps={steps}",
        "trainer.max_epochs=null",
        f"trainer.eval_every={steps}",
        "trainer.log_every=1",
        "trainer.batch_seconds=8",
        f"trainer.device={bench.device}",
        "trainer.precision=fp32",
        "tracking=none",
    ]


def _start(bench: Bench, name: str, *arguments: str) -> subprocess.Popen:
    """`python -m asr_exp ARGUMENTS`, whose runs go to a folder of that name."""
    folder = bench.scratch / name
    folder.mkdir(exist_ok=True)
    own = [] if arguments[0] in ("evaluate", "transcribe") else [f"output_root={folder}/out"]
    return subprocess.Popen(
        [sys.executable, "-m", "asr_exp", *arguments, *own, f"cache_root={bench.scratch}/cache"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
    )


def _interrupt(folder: Path, process: subprocess.Popen, steps: int) -> int:
    """Send SIGUSR1 once a run has made a third of its steps -> the last step that was written by then."""
    while process.poll() is None:
        written = [len(path.read_text().splitlines()) for path in folder.rglob("metrics.jsonl")]
        if written and written[0] >= steps // 3:
            process.send_signal(signal.SIGUSR1)
            return written[0]
        time.sleep(0.005)
    return -1


def _wait(process: subprocess.Popen, bench: Bench) -> tuple[int, str]:
    said, _ = process.communicate(timeout=max(1.0, bench.left))
    return process.returncode, said


def _status(what: str, status: int, said: str) -> Row:
    row: Row = {"what": what, "found": status, "bound": "= 0", "holds": status == 0}
    return row if status == 0 else {**row, "note": said[-1500:]}


def _same(whole: Path, part: Path, exact: bool) -> Iterator[Row]:
    """The losses of both runs, step by step, and their scores."""
    one, other = _lines(whole), _lines(part)
    yield {
        "what": "steps that both have written",
        "found": len(one.keys() & other.keys()),
        "bound": f"= {len(one)}",
        "holds": one.keys() == other.keys() and len(one) > 0,
    }
    pairs = [(one[step], other[step]) for step in one.keys() & other.keys()]
    if exact:
        same = sum(a == b for a, b in pairs)
        yield {
            "what": "steps of the same loss, digit for digit (trainer.deterministic)",
            "found": same,
            "bound": f"= {len(pairs)}",
            "holds": same == len(pairs),
        }
        return
    furthest = max((abs(a - b) / max(abs(a), 1e-12) for a, b in pairs if a is not None), default=float("nan"))
    yield check("losses, the largest relative difference", furthest, CLOSE)


def _lines(folder: Path) -> dict[int, Any]:
    found = {}
    for path in folder.rglob("metrics.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            if "train/loss" in line:
                found[line["step"]] = line["train/loss"]
    return found
