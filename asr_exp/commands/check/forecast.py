"""What a run will take: steps, memory, time and disk space, by its batch plan and by trial steps."""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from asr_exp.commands.check.findings import FAIL, NOTE, WARN, Finding
from asr_exp.commands.check.trial_step import (
    MicroBatch,
    TrialResult,
    checkpoint_bytes,
    first_epoch,
    run_trial,
)
from asr_exp.core.console import counted, duration, size
from asr_exp.data.batch_plan import cost
from asr_exp.data.prepare import Split
from asr_exp.training.pass_size import expected_memory
from asr_exp.training.setup import TrainingSetup

TIGHT = 0.9  # share of the memory, or of the disk, above which a warning is given

Rows = list[tuple[str, str]]  # names and values of a section of the report


@dataclass(frozen=True)
class ForecastOptions:
    """devices: how many the run has. scoring_seconds: the size of passes of scoring. run_steps: whether to
    measure memory and time by trial steps. sharded: whether each device holds a part of the weights (FSDP);
    then one process cannot run a step.
    """

    devices: int
    scoring_seconds: float
    run_steps: bool
    sharded: bool = False


def forecast(
    setup: TrainingSetup, splits: Mapping[str, Split], options: ForecastOptions
) -> tuple[Rows, list[Finding]]:
    """The batch plan of a run, and what its steps take where trial steps can be run."""
    steps = first_epoch(setup, options.devices)
    rows = _plan_rows(setup, steps, options.devices)
    findings = []
    if setup.recipe.settled > setup.total / 2:
        findings.append(
            Finding(
                WARN,
                "warm-up",
                f"The learning rate is at its peak at step {setup.recipe.settled:,} of {setup.total:,} only",
                "Lower schedule.warmup_steps (or model.freeze_encoder_steps), or raise trainer.max_steps.",
            )
        )
    if options.sharded:
        findings.append(
            Finding(
                NOTE,
                "not tried",
                "No pass was run: it takes all devices, with a part of the weights on each (fsdp)",
            )
        )
    if options.sharded or not options.run_steps:
        return rows, findings
    scored = max(
        (splits[name] for name in ("dev", "test") if len(splits.get(name, ()))),
        key=lambda split: split.seconds.max(),
        default=None,
    )
    trial = run_trial(setup, steps, scored, options.scoring_seconds)
    rows += _memory_rows(setup, trial)
    if trial.median_bytes:
        rows += _time_rows(setup, trial, steps, splits)
    return rows, [*findings, *_memory_findings(setup, trial, setup.plan.device_seconds(1))]


def _plan_rows(setup: TrainingSetup, steps: Sequence[Sequence[MicroBatch]], devices: int) -> Rows:
    passes = [len(step) for step in steps]
    worst = max((one for step in steps for one in step), key=lambda one: one.cost)
    batch_sizes = [len(setup.plan.step(number)) for number in range(1, len(steps) + 1)]
    epochs = f"{setup.total / setup.plan.steps_per_epoch:.1f} epochs of {setup.plan.steps_per_epoch:,}"
    a_step = f"{_range(batch_sizes, 'utterance')} on {counted(devices, 'device')}"
    longest = setup.split.seconds[worst.indices].max()
    return [
        ("steps", f"{setup.total:,}: {epochs}; dev every {setup.eval_every:,}"),
        ("a step", f"{a_step}; {_range(passes, 'forward pass', 'es')} on each"),
        ("worst pass", f"{len(worst.indices)} x {longest:.1f} s of audio"),
    ]


def _memory_rows(setup: TrainingSetup, trial: TrialResult) -> Rows:
    device = setup.runtime.device.type
    owner = "of this process" if device == "cpu" else "of the GPU"
    before = f"{size(trial.idle_bytes)} before the first pass, {size(trial.available_bytes)} to be had"
    rows = [("memory", f"{before} ({device}, {setup.runtime.precision})")]
    if trial.median_bytes:
        rows.append(("", f"{size(trial.median_bytes)} {owner} in a median pass, measured"))
    if trial.worst_bytes:
        reserved = f"; {size(trial.reserved_bytes)} reserved" if trial.reserved_bytes else ""
        rows.append(("", f"{size(trial.worst_bytes)} in the worst pass, measured{reserved}"))
    if device == "cuda":
        rows.append(("", f"{size(expected_memory(setup))} by formula"))
    if trial.scoring_bytes:
        rows.append(("", f"{size(trial.scoring_bytes)} in the worst pass of scoring, measured"))
    return rows


def _time_rows(
    setup: TrainingSetup,
    trial: TrialResult,
    steps: Sequence[Sequence[MicroBatch]],
    splits: Mapping[str, Split],
) -> Rows:
    """The time of training and of the evaluations on dev, without reading, decoding and saving."""
    step = trial.seconds_per_cost * sum(one.cost for step in steps for one in step) / len(steps)
    audio = setup.plan.seconds.sum() / setup.plan.steps_per_epoch
    training = step * setup.total
    speed = f"{step:.3g} s a step, {audio / max(step, 1e-9):.0f} audio-s/s"
    rows = [("time", f"{speed}; {duration(training)} of training")]
    if trial.scoring_seconds_per_cost and "dev" in splits:
        times = math.ceil(setup.total / setup.eval_every)
        scoring = times * trial.scoring_seconds_per_cost * float(cost(splits["dev"].seconds).sum())
        evaluations = f"{duration(scoring)} for {times:,} evaluations on dev"
        rows.append(("", f"{evaluations}; {duration(training + scoring)} in all"))
    return rows


def _memory_findings(setup: TrainingSetup, trial: TrialResult, device_seconds: float) -> list[Finding]:
    used = max(trial.worst_bytes or 0, trial.scoring_bytes or 0, trial.reserved_bytes)
    if trial.in_parts:
        return [
            Finding(
                WARN,
                "memory",
                f"The worst pass does not fit into {size(trial.available_bytes)}, and is made in parts",
                f"{_smaller_passes(setup, trial, device_seconds)} plans smaller passes from the start.",
            )
        ]
    if trial.out_of_memory:
        return [
            Finding(
                FAIL,
                "memory",
                f"{trial.out_of_memory[0].upper()}{trial.out_of_memory[1:]} does not fit into "
                f"{size(trial.available_bytes)}",
                f"{_smaller_passes(setup, trial, device_seconds)}, trainer.gradient_checkpointing=true, or"
                " trainer.precision=bf16.",
            )
        ]
    if used > TIGHT * trial.available_bytes:
        return [
            Finding(
                WARN,
                "memory",
                f"{size(used)} of {size(trial.available_bytes)} are taken: there is little room for a"
                " surprise",
                f"trainer.device_seconds={0.8 * device_seconds:g} (it is {device_seconds:g}).",
            )
        ]
    return []


def _smaller_passes(setup: TrainingSetup, trial: TrialResult, device_seconds: float) -> str:
    """Values of keys with which the worst pass should fit, where memory beyond the weights grows with its
    cost.
    """
    share = 0.5
    if trial.median_bytes:
        room = TIGHT * trial.available_bytes - trial.idle_bytes
        share = room / max(1.0, trial.expected_bytes - trial.idle_bytes)
    fitting = max(1.0, math.floor(device_seconds * min(0.9, max(share, 0.05))))
    advice = f"trainer.device_seconds={fitting:g} (it is {device_seconds:g})"
    if setup.plan.costs.max() > fitting:  # one clip alone is too large
        longest = float(setup.split.seconds.max())
        limit = max(1.0, longest / 2)
        advice += f" and dataset.max_seconds={limit:.0f} (there is a clip of {longest:.1f} s)"
    return advice


def disk_space(
    setup: TrainingSetup, audio_bytes: float, cache: Path, folder: Path, averaged: int
) -> tuple[Rows, list[Finding]]:
    """The disk space that a run needs, compared with what is free.

    Args:
        setup: the run's model and optimizer, for the size of its checkpoints.
        audio_bytes: decoded audio that is not in the cache yet.
        cache: the folder of the decoded audio; it need not exist yet.
        folder: the run folder; it need not exist yet.
        averaged: trainer.average, the number of checkpoints that are averaged.

    Returns:
        Rows of a section, and findings.
    """
    checkpoints = checkpoint_bytes(setup, averaged)
    needs = [
        ("audio store", audio_bytes, nearest_existing(cache), "cache_root=FOLDER"),
        ("checkpoints", checkpoints, nearest_existing(folder), "output_root=FOLDER"),
    ]
    rows = [
        (name, f"{size(need)} at most, {size(shutil.disk_usage(place).free)} free at {_short(place)}")
        for name, need, place, _ in needs
    ]
    findings = []
    one_disk = needs[0][2].stat().st_dev == needs[1][2].stat().st_dev
    for name, need, place, key in needs:
        free = shutil.disk_usage(place).free
        total = audio_bytes + checkpoints if one_disk else need
        advice = f"Make room, or give another {key}."
        if total > free:
            text = (
                f"The {name} and what else goes to that disk need {size(total)}, where {size(free)} are free"
            )
            findings.append(Finding(FAIL, "disk", text, advice))
        elif total > TIGHT * free:
            findings.append(Finding(WARN, "disk", f"The disk of the {name} will be nearly full", advice))
    if not audio_bytes:
        findings.append(Finding(NOTE, "cached", "All audio is decoded already"))
    return rows, findings


def nearest_existing(path: Path) -> Path:
    """The folder itself, or the nearest of its parents that exists."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def _range(counts: Sequence[int], noun: str, plural: str = "s") -> str:
    """'3 .. 5 utterances'."""
    least, most = min(counts), max(counts)
    return f"{least:,}{f' .. {most:,}' * (least != most)} {noun}{plural * (most != 1)}"


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 24 else f"...{text[-21:]}"
