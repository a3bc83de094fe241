"""Run the parts, and write cuda.json and cuda.html after each row."""

import datetime
import html
import json
import math
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from asr_exp.core.libraries import hide_broken_torchaudio
from benchmarks.cuda.names import NAMES
from benchmarks.cuda.page import page
from benchmarks.cuda.parts import Bench, Outcome, Part, device_at_hand, groups, run_group
from benchmarks.cuda.summary import fails, goals

# seconds after which a part is ended; whether it may run beside its neighbours
USUAL = 480.0  # seconds of the whole; who gives more gives more to each part
BUDGETS = {
    "environment": (30, False),
    "numerics": (80, False),
    "ctc": (60, False),
    "cli": (100, False),
    "ranks": (60, False),
    "train": (125, True),
    "score": (45, True),
    "hf": (65, True),
    "kernels": (30, True),
    "memory": (35, True),
    "switches": (55, True),
}


def parts_of(names: Sequence[str]) -> list[Part]:
    """The parts of these names. Imports all that they need, once, for the processes that are forked."""
    import torch  # noqa: F401

    hide_broken_torchaudio()
    import transformers.models.wav2vec2.modeling_wav2vec2
    import transformers.models.wavlm.modeling_wavlm  # noqa: F401

    from benchmarks.cuda import (
        command_line,
        ctc,
        environment,
        hf,
        kernels,
        memory,
        numerics,
        ranks,
        switches,
        throughput,
    )

    runs = {
        "environment": environment.run,
        "numerics": numerics.run,
        "ctc": ctc.run,
        "cli": command_line.run,
        "ranks": ranks.run,
        "train": throughput.train,
        "score": throughput.score,
        "hf": hf.run,
        "kernels": kernels.run,
        "memory": memory.run,
        "switches": switches.run,
    }
    return [Part(name, NAMES[name], runs[name], *BUDGETS[name]) for name in NAMES if name in names]


def run_all(
    names: Sequence[str], device: str, quick: bool, scratch: Path, out: Path, began: float, end: float
) -> int:
    """Run parts one after the other, or side by side where nothing is timed.

    Args:
        names: of the parts.
        device: cuda, cpu or auto.
        quick: tiny sizes.
        scratch: a folder for files that nobody needs afterwards.
        out: the folder for cuda.json and cuda.html.
        began: when the process began, by time.monotonic().
        end: when the last part is ended, likewise.

    Returns:
        The exit status: 1 where a part did not get to its end, or something does not hold.
    """
    parts = parts_of(names)
    if (more := (end - began) / USUAL) > 1:
        parts = [replace(part, seconds=more * part.seconds) for part in parts]
    bench = Bench(device_at_hand() if device == "auto" else device, quick, scratch)
    outcomes: list[Outcome] = []
    said: set[int] = set()

    def changed(now: list[Outcome]) -> None:
        for outcome in now:
            for row in outcome.rows:
                if id(row) not in said:
                    said.add(id(row))
                    shown = {k: v for k, v in row.items() if k not in ("traceback", "rows", "sync_lines")}
                    print(f"[{time.monotonic() - began:5.1f} s] {outcome.part.name}: {shown}", flush=True)
        write(out, [*outcomes, *now], bench, began)

    for group in groups(parts):
        found = run_group(group, bench, end, changed)
        for outcome in found:
            print(f"{outcome.part.name}: {outcome.status} after {outcome.seconds:.1f} s", flush=True)
            if outcome.traceback:
                print(outcome.traceback, file=sys.stderr, flush=True)
        outcomes += found
    made = write(out, outcomes, bench, began)
    for goal in made["goals"]:
        print(f"{goal['goal']}: {goal['says']}")
    print(f"{out / 'cuda.html'}, {out / 'cuda.json'}")
    bad = [one for one in outcomes if one.status != "done"]
    return int(bool(bad) or any(fails(row) for one in outcomes for row in one.rows))


def write(out: Path, outcomes: Sequence[Outcome], bench: Bench, began: float) -> dict[str, Any]:
    """Write both files, each beside and renamed, so that neither is ever half."""
    parts = {one.part.name: one.json() for one in outcomes}
    made: dict[str, Any] = without_nan(
        {
            "device": bench.device,
            "quick": bench.quick,
            "date": datetime.date.today().isoformat(),
            "seconds": round(time.monotonic() - began, 1),
            "goals": goals(parts),
            "parts": parts,
        }
    )
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "cuda.json", json.dumps(made, indent=1, allow_nan=False) + "\n")
    try:
        text = page(made)
    except Exception:  # a page that cannot be drawn must not end what is being measured
        text = f"<pre>{html.escape(traceback.format_exc())}</pre>"
    _write(out / "cuda.html", text)
    return made


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def without_nan(value: Any) -> Any:
    """The same with None for what is not a finite number: JSON has no word for it."""
    if isinstance(value, dict):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
