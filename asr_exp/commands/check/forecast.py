"""What a run will take: steps, memory, time and disk, from its plan and from the passes that were tried."""

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from asr_exp.commands.check.findings import FAIL, NOTE, WARN, Finding
from asr_exp.commands.check.trial_step import Trial, checkpoint_bytes, existing, micro_batches, try_out
from asr_exp.core.console import counted, duration, size
from asr_exp.data.batch_plan import cost
from asr_exp.data.prepare import Split
from asr_exp.training.setup import TrainingSetup

TIGHT = 0.9  # share of the memory, or of the disk, above which there is no room for a surprise

Block = tuple[list[tuple[str, str]], list[Finding]]


def plan(
    job: TrainingSetup,
    splits: Mapping[str, Split],
    devices: int,
    device_seconds: float,
    run: bool,
    sharded: bool = False,
) -> Block:
    """The batch plan, and what a step of it takes where one is really run: not where a run's devices hold a
    part of the weights each.
    """
    made = micro_batches(job, devices)
    counts = [len(step) for step in made]
    worst = max((one for step in made for one in step), key=lambda one: one.cost)
    shares = [len(job.plan.step(s)) for s in range(1, len(made) + 1)]
    rows = [
        (
            "steps",
            (
                f"{job.total:,}: {job.total / job.plan.steps_per_epoch:.1f} epochs of"
                f" {job.plan.steps_per_epoch:,}; dev every {job.eval_every:,}"
            ),
        ),
        (
            "a step",
            (
                f"{_range(shares, 'utterance')} on {counted(devices, 'device')}; "
                f"{_range(counts, 'forward pass', 'es')} on each"
            ),
        ),
        ("worst pass", f"{len(worst.indices)} x {job.split.seconds[worst.indices].max():.1f} s of audio"),
    ]
    findings = []
    if job.recipe.settled > job.total / 2:
        findings.append(
            Finding(
                WARN,
                "warm-up",
                f"The learning rate is at its peak at step {job.recipe.settled:,} of {job.total:,} only",
                "Lower schedule.warmup_steps (or model.freeze_encoder_steps), or raise trainer.max_steps.",
            )
        )
    if sharded:
        findings.append(
            Finding(
                NOTE,
                "not tried",
                "No pass was run: it takes all devices, with a part of the weights on each (fsdp)",
            )
        )
    if sharded or not run:
        return rows, findings
    scored = max(
        (splits[name] for name in ("dev", "test") if len(splits.get(name, ()))),
        key=lambda s: s.seconds.max(),
        default=None,
    )
    trial = try_out(job, made, scored, device_seconds)
    rows += _memory(job, trial)
    if trial.median_bytes:
        rows += _time(job, trial, made, splits, device_seconds)
    return rows, [*findings, *_too_large(job, trial, device_seconds)]


def _memory(job: TrainingSetup, trial: Trial) -> list[tuple[str, str]]:
    on = "of this process" if job.runtime.device.type == "cpu" else "of the GPU"
    rows = [
        (
            "memory",
            (
                f"{size(trial.idle)} before the first pass, {size(trial.there)} to be had"
                f" ({job.runtime.device.type}, {job.runtime.precision})"
            ),
        )
    ]
    if trial.median_bytes:
        rows.append(("", f"{size(trial.median_bytes)} {on} in a median pass, measured"))
    if trial.worst_bytes:
        rows.append(("", f"{size(trial.worst_bytes)} in the worst pass, measured"))
    if trial.scoring_bytes:
        rows.append(("", f"{size(trial.scoring_bytes)} in the worst pass of scoring, measured"))
    return rows


def _time(
    job: TrainingSetup, trial: Trial, made: list, splits: Mapping[str, Split], device_seconds: float
) -> list[tuple[str, str]]:
    """Training and dev evaluations; reading, decoding and saving come on top."""
    step = trial.pace * sum(one.cost for step in made for one in step) / len(made)
    heard = job.plan.seconds.sum() / job.plan.steps_per_epoch
    rows = [
        (
            "time",
            (
                f"{step:.3g} s a step, {heard / max(step, 1e-9):.0f} audio-s/s; {duration(step * job.total)}"
                " of training"
            ),
        )
    ]
    if trial.scoring_seconds and "dev" in splits:
        times = math.ceil(job.total / job.eval_every)
        took = trial.scoring_seconds * float(cost(splits["dev"].seconds).sum())
        rows.append(
            (
                "",
                (
                    f"{duration(times * took)} for {times:,} evaluations on dev;"
                    f" {duration(step * job.total + times * took)} in all"
                ),
            )
        )
    return rows


def _too_large(job: TrainingSetup, trial: Trial, device_seconds: float) -> list[Finding]:
    used = max(trial.worst_bytes or 0, trial.scoring_bytes or 0)
    if trial.out_of_memory:
        room = (
            (TIGHT * trial.there - trial.idle) / max(1.0, trial.expected_bytes - trial.idle)
            if trial.median_bytes
            else 0.5
        )
        fitting = max(1.0, math.floor(device_seconds * min(0.9, max(room, 0.05))))
        longest = float(job.split.seconds.max())
        alone = cost(job.split.seconds).max() > fitting
        advice = f"trainer.device_seconds={fitting:g} (it is {device_seconds:g})" + (
            f" and dataset.max_seconds={max(1.0, longest / 2):.0f} (there is a clip of {longest:.1f} s)"
            if alone
            else ""
        )
        return [
            Finding(
                FAIL,
                "memory",
                f"{trial.out_of_memory[0].upper()}{trial.out_of_memory[1:]} does not fit into "
                f"{size(trial.there)}",
                f"{advice}, trainer.gradient_checkpointing=true, or trainer.precision=bf16.",
            )
        ]
    if used > TIGHT * trial.there:
        return [
            Finding(
                WARN,
                "memory",
                f"{size(used)} of {size(trial.there)} are taken: there is little room for a surprise",
                f"trainer.device_seconds={0.8 * device_seconds:g} (it is {device_seconds:g}).",
            )
        ]
    return []


def disk(job: TrainingSetup, audio: float, cache: Path, folder: Path, average: int) -> Block:
    """Room for the decoded audio that is not in the cache yet (bytes) and for checkpoints, against what is
    free.
    """
    checkpoints = checkpoint_bytes(job, average)
    needs = [
        ("audio store", audio, existing(cache), "cache_root=FOLDER"),
        ("checkpoints", checkpoints, existing(folder), "output_root=FOLDER"),
    ]
    rows = [
        (what, f"{size(need)} at most, {size(shutil.disk_usage(place).free)} free at {_short(place)}")
        for what, need, place, _ in needs
    ]
    findings = []
    one_disk = needs[0][2].stat().st_dev == needs[1][2].stat().st_dev
    for what, need, place, key in needs:
        free = shutil.disk_usage(place).free
        total = audio + checkpoints if one_disk else need
        if total > free:
            findings.append(
                Finding(
                    FAIL,
                    "disk",
                    f"The {what} and what else goes to that disk need {size(total)}, where {size(free)} are "
                    "free",
                    f"Make room, or give another {key}.",
                )
            )
        elif total > TIGHT * free:
            findings.append(
                Finding(
                    WARN,
                    "disk",
                    f"The disk of the {what} will be nearly full",
                    f"Make room, or give another {key}.",
                )
            )
    if not audio:
        findings.append(Finding(NOTE, "cached", "All audio is decoded already"))
    return rows, findings


def _range(counts: Sequence[int], noun: str, plural: str = "s") -> str:
    least, most = min(counts), max(counts)
    return f"{least:,}{f' .. {most:,}' * (least != most)} {noun}{plural * (most != 1)}"


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 24 else f"...{text[-21:]}"
