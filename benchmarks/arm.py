"""One measured process: `python -m benchmarks.arm TASK.json` does what the task says and writes its times to
the task's `out`.
"""

import importlib
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """What an arm is asked to do. folder is its own, and empty."""

    arm: str  # hf, hf-tuned, ours, or the gate that compares gradients
    kind: str  # train, start, evaluate, learn, gradients, attention-train, attention-evaluate
    model: str  # folder of the initial weights
    train: str  # manifests
    test: str
    folder: str
    out: str
    precision: str
    device: str
    batch: int  # utterances an optimiser step
    steps: int  # optimiser steps in an epoch
    epochs: int
    seconds: float  # of audio in an epoch
    attention: str = "sdpa"  # of hf-tuned
    workers: int = 1  # of hf-tuned's data loader
    learning_rate: float = 1e-4
    warmup: int = 0
    mask_length: int = 10  # frames
    seed: int = 0
    launched: float = 0.0  # when the process was started

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @property
    def total(self) -> int:
        return 1 if self.kind == "start" else self.steps * self.epochs


class Clock:
    """When things happened, and the memory they had taken by then."""

    def __init__(self, device: str):
        self.device = device
        self.found: dict[str, Any] = {"steps": [], "ends": []}

    def mark(self, name: str) -> None:
        self.settle()
        self.found[name] = time.time()

    def step(self, number: int, epoch: int) -> None:
        """An optimiser step is over; at the ends of epochs (of so many steps), and after the first, the
        device is waited for.
        """
        if number == 1 or number % epoch == 0:
            self.settle()
            self.found["steps"].append(number)
            self.found["ends"].append(time.time())
            self.found["memory"] = self.peak()

    def settle(self) -> None:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()

    def loaded(self, weights: Iterable[Any]) -> None:
        """The model is there: note the memory it takes with all that was imported."""
        for weight in weights:  # a file of them is mapped: what has not been looked at takes no memory yet
            weight.detach().sum()
        self.found["loaded"] = self._memory("VmRSS", "memory_allocated")

    def peak(self) -> int:
        """Bytes so far at the most: of the GPU where there is one, else of this process (not of a data
        loader's workers).
        """
        return self._memory("VmHWM", "max_memory_allocated")

    def _memory(self, resident: str, allocated: str) -> int:
        if self.device == "cuda":
            import torch

            return getattr(torch.cuda, allocated)()
        return memory_of(resident)


def memory_of(name: str) -> int:
    """Bytes of this process as Linux counts them: VmRSS, what is resident now; VmHWM, its peak (that of
    getrusage is the parent's too).
    """
    with open("/proc/self/status") as file:
        told = dict(line.split(":", 1) for line in file)
    return 1024 * int(told[name].split()[0])


def main(path: str) -> None:
    task = Task(**json.loads(Path(path).read_text(encoding="utf-8")))
    clock = Clock(task.device)
    side = {"ours": "benchmarks.ours", "gate": "benchmarks.gates"}.get(task.arm, "benchmarks.hf")
    importlib.import_module(side).run(task, clock)
    clock.found["launched"] = task.launched
    clock.found.setdefault("memory", clock.peak())
    Path(task.out).write_text(json.dumps(clock.found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
