"""The parts of the benchmark, each in a process of its own: a part that crashes, hangs or loses the device
costs its own remaining rows and nothing else.
"""

import logging
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

Row = dict[str, Any]
FORK = multiprocessing.get_context("fork")  # the libraries are imported once; no parent touches the device


@dataclass(frozen=True)
class Bench:
    """What every part is told.

    device: cuda or cpu. quick: tiny sizes. scratch: a folder for files. deadline: when the part is ended, by
    time.monotonic().
    """

    device: str
    quick: bool
    scratch: Path
    deadline: float = float("inf")

    @property
    def left(self) -> float:
        """Seconds that the part still has."""
        return self.deadline - time.monotonic()


@dataclass(frozen=True)
class Part:
    """A part of the benchmark.

    name: in --parts and in the JSON. title: on the page. run: yields rows as it finds them. seconds: after
    which it is ended. alone: nothing else may run at that time, because it measures speed or memory.
    """

    name: str
    title: str
    run: Callable[[Bench], Iterator[Row]]
    seconds: float
    alone: bool = True


@dataclass
class Outcome:
    """What came of a part.

    status: `running`, `done`, `failed`, `cut` (out of time) or `left out` (there was no time to begin).
    """

    part: Part
    status: str = "running"
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)
    traceback: str | None = None
    warnings: list[str] = field(default_factory=list)  # that asr_exp has logged

    def json(self) -> dict[str, Any]:
        made = {
            "title": self.part.title,
            "status": self.status,
            "seconds": round(self.seconds, 1),
            "rows": self.rows,
            "warnings": self.warnings,
        }
        return made if self.traceback is None else {**made, "traceback": self.traceback}


class Attempt:
    """A row's worth of work whose failure is a row too.

    attempt = Attempt(network="base")
    with attempt:
        attempt.row["rate"] = ...
    yield attempt.row
    """

    def __init__(self, **row: Any):
        self.row: Row = row
        self.failed = False

    def __enter__(self) -> "Attempt":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> bool:
        if not isinstance(error, Exception):
            return False
        self.failed = True
        self.row["failed"] = f"{type(error).__name__}: {str(error).strip()[:300]}"
        self.row["traceback"] = "".join(traceback.format_exception(error))[-4000:]
        return True


def check(what: str, found: float, bound: float, below: bool = True, **more: Any) -> Row:
    """A row of a part that tests: what was found, beside the bound that it must keep."""
    holds = bool(found <= bound if below else found >= bound)  # what is not a number does not
    return {
        **more,
        "what": what,
        "found": found,
        "bound": f"{'≤' if below else '≥'} {bound:g}",
        "holds": holds,
    }


def groups(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Parts that run side by side: neighbours that need not be alone."""
    group: list[Part] = []
    for part in parts:
        if group and (part.alone or group[-1].alone):
            yield group
            group = []
        group.append(part)
    if group:
        yield group


def run_group(
    parts: Sequence[Part], bench: Bench, end: float, changed: Callable[[list[Outcome]], None]
) -> list[Outcome]:
    """Run parts side by side, each in a process of its own, until all have ended or are out of time.

    Args:
        parts: to run.
        bench: without a deadline.
        end: of the whole benchmark, by time.monotonic().
        changed: is told the outcomes after each row, so that a benchmark that is killed leaves what it found.

    Returns:
        An outcome for each part.
    """
    began = time.monotonic()
    if end - began < 2:
        return [Outcome(part, "left out") for part in parts]
    outcomes = [Outcome(part) for part in parts]
    running: dict[Connection, tuple[Outcome, Any, float]] = {}
    for outcome in outcomes:
        deadline = min(end, began + outcome.part.seconds)
        ours, theirs = FORK.Pipe(duplex=False)
        told = Bench(bench.device, bench.quick, bench.scratch, deadline)
        process = FORK.Process(target=_in_process, args=(outcome.part, told, theirs))
        process.start()
        theirs.close()
        running[ours] = (outcome, process, deadline)
    while running:
        soonest = min(deadline for *_, deadline in running.values())
        for ready in wait(list(running), timeout=max(0.0, soonest - time.monotonic())):
            assert isinstance(ready, Connection)
            if not _receive(ready, running[ready][0]):
                _end(running.pop(ready), began)
            changed(outcomes)
        for late in [one for one, (*_, deadline) in running.items() if time.monotonic() > deadline]:
            running[late][0].status = "cut"
            _end(running.pop(late), began)
            changed(outcomes)
    return outcomes


def _receive(pipe: Connection, outcome: Outcome) -> bool:
    """Take what a part sends; whether there may be more."""
    try:
        kind, value = pipe.recv()
    except EOFError:
        if outcome.status == "running":
            outcome.status, outcome.traceback = "failed", "Its process ended without a word."
        return False
    if kind == "row":
        outcome.rows.append(value)
        return True
    if kind == "warning":
        outcome.warnings.append(value)
        return True
    outcome.status = kind
    outcome.traceback = value
    return True


def _end(running: tuple[Outcome, Any, float], began: float) -> None:
    """End a part's process, and those it has started."""
    outcome, process, _ = running
    if outcome.status == "cut":
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            process.kill()
    process.join()
    if process.exitcode and outcome.status == "failed":
        outcome.traceback = f"{outcome.traceback or ''}\nexit status {process.exitcode}".strip()
    outcome.seconds = time.monotonic() - began


def _send_warnings(pipe: Connection) -> None:
    """Have the parent told of what asr_exp warns of, whatever becomes of the log's handlers."""
    make = logging.getLogRecordFactory()

    def made_and_sent(*arguments: Any, **more: Any) -> logging.LogRecord:
        record = make(*arguments, **more)
        if record.levelno >= logging.WARNING and record.name.startswith("asr_exp"):
            pipe.send(("warning", record.getMessage()))
        return record

    logging.setLogRecordFactory(made_and_sent)


def _in_process(part: Part, bench: Bench, pipe: Connection) -> None:
    os.setsid()  # a group of its own, which is ended as a whole
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _send_warnings(pipe)
    status = 0
    try:
        for row in part.run(bench):
            pipe.send(("row", row))
        pipe.send(("done", None))
    except BaseException as why:
        pipe.send(("failed", "".join(traceback.format_exception(why))[-6000:]))
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # teardown of a device that is in trouble may hang


def device_at_hand() -> str:
    """cuda where torch sees a card, else cpu. A process of its own looks: in one that has asked for the card,
    those forked from it could not use it.
    """
    process = FORK.Process(target=_look)
    process.start()
    process.join()
    return "cuda" if process.exitcode == 0 else "cpu"


def _look() -> None:
    import torch

    os._exit(0 if torch.cuda.is_available() else 1)
