"""Where a run stands, and what the training loop calls: scoring, saving, writing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from asr_exp.training.trackers import MetricsFile, Profile, Tracker


@dataclass
class State:
    """Where a run stands: what a checkpoint keeps besides weights and optimizer."""

    step: int = 0
    best: dict[str, Any] = field(default_factory=dict)  # step, metric, value, loss, summary
    stale: int = 0  # evaluations since the best
    audio_seconds: float = 0.0
    wall_seconds: float = 0.0
    skipped_steps: int = 0  # without a finite gradient
    skipped_in_a_row: int = 0
    lines: int = 0  # of metrics.jsonl
    averaged: bool = False  # the weights are the mean of the last evaluations'
    data: str = ""  # fingerprint of the training split
    warned: list[str] = field(default_factory=list)  # of what the plateau doctor has seen


class Scored(Protocol):
    """Scores on dev: the rate the best checkpoint is chosen by, the summary it comes from, the mean loss."""

    summary: dict[str, Any]
    loss: float | None

    @property
    def rate(self) -> float: ...


@dataclass(frozen=True)
class Hooks:
    """What `fit` calls and does not know the inside of: score dev, save (best weights or not), judge a score
    (why to end, or None).
    """

    evaluate: Callable[[int], Scored]
    save: Callable[[State, bool], None]
    metrics: MetricsFile | None
    tracker: Tracker
    profile: Profile
    pruner: Callable[[int, float], str | None] = lambda step, rate: None
    losses: MetricsFile | None = None  # of the single utterances, a line a step


def save(state: State, hooks: Hooks) -> None:
    """Save all it takes to go on from here, metrics.jsonl's length included."""
    state.lines = hooks.metrics.lines if hooks.metrics else 0
    hooks.save(state, False)
