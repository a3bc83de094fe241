"""RESULTS.md and results.json, made of what was measured."""

import datetime
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import material, probe
from benchmarks.gates import of_row
from benchmarks.measure import Bench, ratio
from benchmarks.rows import ARMS, ROWS, Row

OTHERS = ("hf", "hf-tuned")
SAME_AUDIO = 0.02  # how far apart the audio of an optimiser step may be
UNITS = {
    "rate": "audio-s/s, whole",
    "steady_rate": "audio-s/s, steady",
    "start": "s from process start",
    "start_after_imports": "s after imports",
    "memory": "peak memory, MiB",
    "above": "peak above the model, MiB",
    "growth": "MiB more for 10 x clips",
}
SHOWN = {
    "train": ("rate", "steady_rate", "memory"),
    "evaluate": ("rate", "memory", "above"),
    "start": ("start", "start_after_imports"),
    "memory": ("memory", "above", "growth"),
}

PAGE = """# Speed against the Trainer of transformers

Made by {made}; do not edit. `python -m benchmarks --help` says how to run it.

- machine: {machine}
- versions: {versions}
- clips: cut from {speech}, lengths: {lengths}

| arm | what it is |
|---|---|
| hf | transformers' Trainer the way its CTC example is run by its published commands: grouped by length, lists of floats, no worker |
| hf-tuned | the same with arrays, lengths the sampler finds, the faster attention, a loader worker, scoring sorted, argmax on the way |
| ours | `python -m asr_exp` |

All start from the same random weights and train on the same files, with the same audio an optimiser step, masks, learning rate, clipping
and precision, the front end frozen, without dropout. A round runs the arms in turn, each in a fresh process. Figures are medians of the
rounds; ratios are taken within a round, median [lowest .. highest]; above 1 asr_exp is faster, sooner or smaller.

| row | what | hf | hf-tuned | ours | ours : hf | ours : hf-tuned | rounds |
|---|---|---|---|---|---|---|---|
{figures}

Audio is that of the recordings; padding does not count. *whole*: from the end of imports to the end of the last step; loading, preparing,
caching and the first epoch are in it. *steady*: without the first epoch. Start: to the end of the first step, nothing cached before.
Memory is resident memory at its peak; *above the model*: less what was resident once the model was there, before anything was scored.

| row | settings | share of the ceiling |
|---|---|---|
{settings}

The ceiling is the fastest matrix multiplication measured in the row; the share is the work of the model by formula (`work` in
`benchmarks/probe.py`) in the steady audio a second, whether an arm does that work or has its result cached.

| gate | | found |
|---|---|---|
{gates}

Gradients: one step of plain gradient descent in fp32 by the command line, on clips of different lengths together, against transformers
fed one clip at a time in double precision. Learning: WER on held-out clips after the same steps, on clips of about one length, so that
grouping by length has no part in it; the noise is Student's interval (99 %) of the difference of two means, from the spread of WER over
seeds, which differ in the order of the data and the masks. A row whose gate fails is void.
"""


def row_report(
    row: Row, measured: dict[str, Any], gates: dict[str, dict[str, Any]], bench: Bench
) -> dict[str, Any]:
    """All that results.json says of a row."""
    made = summary(row, measured, gates)
    seconds = material.clip_seconds(bench.lengths, row.batch, row.steps)
    made["settings"] = settings(row, float(seconds.sum()), measured["attention"])
    if row.kind in ("train", "evaluate") and "medians" in made:
        made["shares"] = {arm: share(row, made, arm, seconds) for arm in ARMS}
    return {**made, "measured": measured}


def summary(row: Row, measured: dict[str, Any], gates: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A row's medians and ratios, or why it is void."""
    failed = [name for name in of_row(row) if not gates[name]["passed"]]
    rounds, rejected = measured["rounds"], measured["rejected"]
    made = {
        "row": row.name,
        "void": why_void(row, measured, failed),
        "rounds": len(rounds),
        "rejected": len(rejected),
    }
    if not rounds:
        return made
    made["medians"] = {
        arm: {name: median([one["arms"][arm][name] for one in rounds]) for name in rounds[0]["arms"][arm]}
        for arm in ARMS
    }
    made["ratios"] = {
        name: {other: _spread([ratio(row, name, one, other) for one in rounds]) for other in OTHERS}
        for name in SHOWN[row.kind]
    }
    made["ceiling"] = max(value for one in rounds + rejected for value in one["probes"])
    return made


def why_void(row: Row, measured: dict[str, Any], failed: Sequence[str]) -> str:
    """Why a row's figures do not count, or ''."""
    if failed:
        return f"gate failed: {', '.join(failed)}"
    if "failed" in measured:
        return measured["failed"]
    if not measured["rounds"]:
        return "the machine's speed moved too much in every round"
    for one in measured["rounds"]:
        if row.kind == "train":
            steps = {arm: one["arms"][arm]["audio"] / one["arms"][arm]["optimiser_steps"] for arm in ARMS}
            if max(steps.values()) > (1 + SAME_AUDIO) * min(steps.values()):
                return "audio of a step differs: " + ", ".join(
                    f"{arm} {value:.1f} s" for arm, value in steps.items()
                )
        if row.kind == "evaluate" and len({round(one["arms"][arm]["audio"]) for arm in ARMS}) > 1:
            return "the arms scored different audio"
    return ""


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "low": min(values), "high": max(values)}


def share(row: Row, made: dict[str, Any], arm: str, seconds: np.ndarray) -> float:
    """The share of the machine's measured matrix multiplications a second that an arm's audio a second
    amounts to.
    """
    work = probe.work(material.config_of(row.model), seconds, row.kind == "train") / sum(seconds)
    return made["medians"][arm]["steady_rate" if row.kind == "train" else "rate"] * work / made["ceiling"]


# ------------------------------------------------------------------------------------------------------------
# the page


def page(report: dict[str, Any]) -> str:
    """RESULTS.md."""
    m = report["machine"]
    gpu = f"{m['gpu']} (CUDA {m['cuda']}), " if "gpu" in m else ""
    machine = f"{gpu}{m['processor']}, {m['cores']} cores, {m['threads']} threads, {m['memory_gib']} GiB"
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    made = " and ".join(dict.fromkeys(f"`{row['command']}` on {row['date']}" for row in report["rows"]))
    gates = [
        f"| {name} | {'passed' if gate['passed'] else '**failed**'} | {gate['says']} |"
        for name, gate in report["gates"].items()
    ]
    return PAGE.format(
        made=made,
        machine=machine,
        versions=versions,
        speech=report["speech"],
        lengths=report["lengths"],
        figures="\n".join(line for row in report["rows"] for line in _lines(row)),
        settings="\n".join(
            f"| {row['row']} | {row['settings']} | {_shares(row)} |" for row in report["rows"]
        ),
        gates="\n".join(gates),
    )


def _lines(row: dict[str, Any]) -> list[str]:
    rounds = f"{row['rounds']}" + (f" ({row['rejected']} repeated)" if row["rejected"] else "")
    if row["void"]:
        return [f"| {row['row']} | **void**: {row['void']} | | | | | | {rounds} |"]
    return [
        f"| {row['row']} | {UNITS[name]} | "
        + " | ".join(_figure(name, row["medians"][arm][name]) for arm in ARMS)
        + " | "
        + " | ".join("{median:.2f} [{low:.2f} .. {high:.2f}]".format(**ratios[other]) for other in OTHERS)
        + f" | {rounds} |"
        for name, ratios in row["ratios"].items()
    ]


def _shares(row: dict[str, Any]) -> str:
    return (
        ", ".join(f"{arm} {row['shares'][arm]:.0%}" for arm in ARMS)
        if "shares" in row and not row["void"]
        else ""
    )


def _figure(name: str, value: float) -> str:
    return f"{value / 2**20:.0f}" if name in ("memory", "above", "growth") else f"{value:.1f}"


def settings(row: Row, seconds: float, attention: str) -> str:
    """What a row was, in a few words."""
    said = f"{row.model}, {row.precision}; {row.utterances} clips, {seconds:,.0f} s"
    if row.kind == "train":
        said += (
            f"; {row.batch} clips ({seconds / row.steps:.0f} s) a step, {row.steps} steps an epoch,"
            f" {row.epochs} epochs"
        )
    if row.kind == "evaluate" and row.precision != "fp32":
        said += "; ours scores in fp32 whatever the precision"
    return f"{said}; {attention} attention in hf-tuned" if row.kind != "start" else said


class Unlike(ValueError):
    """Rows that were measured before and those to be measured now do not belong on one page."""


def kept(folder: Path, report: dict[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """The report with the rows of the folder's results.json, less those to be measured now. Raises Unlike
    where they are of another machine, other versions or other clips, or there is none."""
    path = folder / "results.json"
    if not path.is_file():
        raise Unlike(f"keep=true: there is no {path}; leave keep out.")
    before = json.loads(path.read_text(encoding="utf-8"))
    for name in ("machine", "versions", "lengths", "speech"):
        if before.get(name) != report[name]:
            raise Unlike(
                f"keep=true: the {name} of {path} are {before.get(name)}, and now {report[name]}; leave keep"
                " out."
            )
    now = {row.name for row in rows}
    return {
        **report,
        "gates": before["gates"],
        "rows": [row for row in before["rows"] if row["row"] not in now],
    }


def write(folder: Path, report: dict[str, Any]) -> None:
    order = [row.name for row in ROWS]
    report["rows"].sort(key=lambda row: order.index(row["row"]) if row["row"] in order else len(order))
    (folder / "results.json").write_text(
        json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (folder / "RESULTS.md").write_text(page(report), encoding="utf-8")


def today() -> str:
    return datetime.date.today().isoformat()


def command(arguments: Sequence[str]) -> str:
    """The command that was typed, folders of this machine left out."""
    shown = [
        "speech=FOLDER" if word.startswith("speech=") else word
        for word in arguments
        if not word.startswith(("out=", "scratch="))
    ]
    return shlex.join(["python", "-m", "benchmarks", *shown])
