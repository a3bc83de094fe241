"""Rounds: every arm in turn, each in a process of its own, the machine probed between them; a round it was
disturbed in is repeated.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import material, probe
from benchmarks.arm import Task
from benchmarks.rows import ARMS, Row

LIMIT = 1800.0  # seconds an arm may take before it is ended
REPEATS = 2  # rounds tried for each that is wanted, at the most


@dataclass
class Bench:
    """What all rows share. folder: scratch; speech: of recordings, or None for the demo's; say: where
    progress goes.
    """

    folder: Path
    rounds: int
    drift: float
    lengths: str
    speech: Path | None
    say: Callable[[str], None]
    _made: dict[Any, Any] = field(default_factory=dict)

    def model(self, name: str) -> Path:
        return self._once(("model", name), lambda: material.save_model(self.folder / "models" / name, name))

    def clips(self, batch: int, steps: int, seed: int = 0) -> tuple[Path, float]:
        """A manifest of batch * steps clips, and their seconds."""

        def make() -> tuple[Path, float]:
            pool = self._once("speech", lambda: material.speech(self.speech))
            seconds = material.clip_seconds(self.lengths, batch, steps, seed)
            path = self.folder / "clips" / f"{batch}x{steps}-{seed}.csv"
            return material.make_manifest(path, seconds, pool, seed), float(seconds.sum())

        return self._once((batch, steps, seed), make)

    def attention(self, task: Task) -> str:
        """The faster attention implementation for hf-tuned on this device, measured once a model, precision
        and kind of row.
        """

        def find() -> str:
            times = run_arm(replace(task, arm="hf-tuned", kind=f"attention-{task.kind}"), self.folder)
            # where it could not be told: the default
            return min(("sdpa", "eager"), key=lambda name: times.get(name, 0.0))

        return self._once(("attention", task.model, task.precision, task.kind), find)

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def task_of(row: Row, bench: Bench) -> Task:
    """What the arms are asked to do for a row, but for the arm."""
    few, _ = bench.clips(2, 2, seed=1)
    clips, seconds = bench.clips(row.batch, row.steps)
    trains = row.kind in ("train", "start")
    return Task(
        arm="",
        kind="evaluate" if row.kind == "memory" else row.kind,
        model=str(bench.model(row.model)),
        train=str(clips if trains else few),
        test=str(few if trains else clips),
        folder="",
        out="",
        precision=row.precision,
        device=row.device,
        batch=row.batch,
        steps=row.steps,
        epochs=row.epochs,
        seconds=seconds,
        workers=1 if row.device == "cpu" else 4,
    )


def run_arm(task: Task, scratch: Path) -> dict[str, Any]:
    """A task in a process of its own -> what it noted; {"failed": why} where it did not end well. Its files
    are gone afterwards.
    """
    folder = scratch / "arm"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    task = replace(task, folder=str(folder / "work"), out=str(folder / "found.json"), launched=time.time())
    Path(task.folder).mkdir()
    task.save(folder / "task.json")
    root = Path(__file__).parents[1]
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder / "datasets"),
    }
    if task.kind == "gradients":
        environment["NVIDIA_TF32_OVERRIDE"] = "0"  # a GPU would round what it multiplies to 10 bits
    command = [sys.executable, "-m", "benchmarks.arm", str(folder / "task.json")]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=LIMIT, cwd=folder, check=False
        )
        if done.returncode:
            print(done.stdout + done.stderr, file=sys.stderr, flush=True)
            return {
                "failed": (
                    (done.stderr.strip().splitlines() or ["no word"])[-1].replace(str(scratch), "SCRATCH")
                )
            }
        return json.loads(Path(task.out).read_text(encoding="utf-8"))
    except subprocess.TimeoutExpired:
        return {"failed": f"still at work after {LIMIT:.0f} s"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure(row: Row, bench: Bench) -> dict[str, Any]:
    """All rounds of a row -> the rounds that count, each with the figures of its arms, and those rejected."""
    task = task_of(row, bench)
    task = replace(task, attention=bench.attention(task) if row.kind != "start" else "sdpa")
    wanted = min(bench.rounds, row.rounds or bench.rounds)
    kept: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    while len(kept) < wanted and len(kept) + len(rejected) < wanted * REPEATS:
        one = _round(row, task, bench)
        if "failed" in one:
            return {
                "rounds": kept,
                "rejected": rejected,
                "attention": task.attention,
                "failed": one["failed"],
            }
        still = one["drift"] <= bench.drift or row.kind == "memory"  # which does not depend on speed
        (kept if still else rejected).append(one)
        what = "" if still else f": one to be repeated, the machine's speed moved by {one['drift']:.0%}"
        bench.say(f"{row.name}: {len(kept)} of {wanted} rounds{what}")
    return {"rounds": kept, "rejected": rejected, "attention": task.attention}


def _round(row: Row, task: Task, bench: Bench) -> dict[str, Any]:
    probes, found = [], {}
    for arm in ARMS:
        probes.append(probe.gemm(row.precision, row.device))
        runs = [run_arm(replace(one, arm=arm), bench.folder) for one in _tasks(row, task, bench)]
        probes.append(probe.gemm(row.precision, row.device))
        for run in runs:
            if "failed" in run:
                return {"failed": f"{arm}: {run['failed']}"}
        found[arm] = figures(row, runs)
    return {"probes": probes, "drift": max(probes) / min(probes) - 1, "arms": found}


def _tasks(row: Row, task: Task, bench: Bench) -> list[Task]:
    """A memory row scores a tenth of the clips, then all of them."""
    if row.kind != "memory":
        return [task]
    tenth, _ = bench.clips(row.batch, row.steps // 10)
    return [replace(task, test=str(tenth)), task]


def figures(row: Row, runs: list[dict[str, Any]]) -> dict[str, float]:
    """What a row is compared by, from what an arm noted. Rates in audio seconds a second, times in seconds,
    memory in bytes.
    """
    run = runs[-1]
    if row.kind == "memory":
        small, large = (one["memory"] for one in runs)
        return {
            "memory": large,
            "above": large - run["loaded"],
            "memory_tenth": small,
            "growth": large - small,
        }
    if row.kind == "evaluate":
        rate = run["audio"] / (run["ended"] - run["began"])
        return {
            "rate": rate,
            "memory": run["memory"],
            "above": run["memory"] - run["loaded"],
            "audio": run["audio"],
            "wer": run["wer"],
        }
    first, last = run["ends"][0], run["ends"][-1]
    start = {
        "start": first - run["launched"],
        "start_after_imports": first - run["imported"],
        "memory": run["memory"],
    }
    if row.kind == "start":
        return start
    epoch_ends = [end for step, end in zip(run["steps"], run["ends"], strict=True) if step % row.steps == 0]
    return {
        **start,
        "audio": run["audio"],
        "optimiser_steps": run["optimiser_steps"],
        "rate": run["audio"] / (last - run["imported"]),
        "steady_rate": run["audio"] * (1 - 1 / row.epochs) / (last - epoch_ends[0]),
    }


def ratio(row: Row, name: str, one: dict[str, Any], other: str) -> float:
    """How many times better ours is than another arm in a round: faster, sooner, smaller."""
    ours, theirs = (
        max(one["arms"][arm][name], 2**20 if name in ("growth", "above") else 0) for arm in ("ours", other)
    )
    return ours / theirs if name.endswith("rate") else theirs / ours
