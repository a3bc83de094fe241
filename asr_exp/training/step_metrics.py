"""The figures of training steps: fetched from the device now and then, summed over the ranks, and written as
lines of metrics.jsonl.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from asr_exp.core.errors import UserError
from asr_exp.training.monitor import TrainingMonitor
from asr_exp.training.progress import Progress
from asr_exp.training.setup import TrainingSetup
from asr_exp.training.state import Hooks, State

log = logging.getLogger(__name__)

HOPELESS = 50  # steps in a row without a finite gradient, after which the run gives up


@dataclass(frozen=True)
class StepFigures:
    """What this rank knows of one training step. The tensors stay on the device: reading them would wait.

    step: its number, from 1. sums: (1 + labels,) the step's mean loss, as far as it comes from this rank, and
    the number of frames by their likeliest label. norm: () the norm of the gradient before clipping, of all
    ranks together. utterances: the rows of the training split that make the step, on all ranks. losses: the
    rows in each micro-batch of this rank, and the loss of each row.
    """

    step: int
    sums: torch.Tensor
    norm: torch.Tensor
    utterances: np.ndarray
    losses: list[tuple[np.ndarray, torch.Tensor]]


class StepMetrics:
    """Collects the figures of steps, and now and then fetches them from the device and writes them."""

    def __init__(self, setup: TrainingSetup, state: State, hooks: Hooks, progress: Progress):
        self.setup = setup
        self.state = state
        self.hooks = hooks
        self.progress = progress
        self._steps: list[StepFigures] = []
        self._monitor = TrainingMonitor(setup.recipe, state.warned)

    def add(self, figures: StepFigures) -> None:
        self._steps.append(figures)

    def flush(self) -> None:
        """Fetch the pending figures, sum them over the ranks and write them; every rank takes part.

        Raises UserError when no step has had a finite gradient for long.
        """
        if not self._steps:
            return
        sums = self.setup.runtime.sum(torch.stack([one.sums for one in self._steps])).tolist()
        norms = torch.stack([one.norm for one in self._steps]).tolist()
        lines, losses = list(self._lines(sums, norms)), list(self._losses())
        self._warn_of_unusable_losses()
        self._steps.clear()
        if self.hooks.metrics:
            self.hooks.metrics.write(lines)
        if self.hooks.losses:
            self.hooks.losses.write(losses)
        for line in lines:
            speed = {"train/audio_seconds_per_second": self.progress.rate}
            self.hooks.tracker.log(
                {k: v for k, v in {**line, **speed}.items() if k != "step" and v is not None}, line["step"]
            )
        if lines[-1]["train/loss"] is not None:
            self.progress.loss(lines[-1]["train/loss"])
        if self.setup.runtime.main and (
            warning := self._monitor.observe(lines, (row[1:] for row in sums), self.state.best.get("value"))
        ):
            self.hooks.tracker.log({"train/warning": warning}, lines[-1]["step"])
        self._give_up_if_hopeless(norms)

    def _lines(self, sums: list[list[float]], norms: list[float]) -> Iterator[Mapping[str, Any]]:
        for figures, (loss, *labels), norm in zip(self._steps, sums, norms, strict=True):
            yield {
                "step": figures.step,
                "epoch": round((figures.step - 1) / self.setup.plan.steps_per_epoch, 4),
                "train/loss": _finite(loss),
                "train/lr": self.setup.optimizer.param_groups[0]["peak_lr"] * self.setup.factor(figures.step),
                "train/grad_norm": _finite(norm),
                "train/blank_ratio": labels[self.setup.blank] / frames if (frames := sum(labels)) else None,
            }

    def _losses(self) -> Iterator[Mapping[str, Any]]:
        """The loss of each utterance of a step, whichever rank had it; None where it is not finite."""
        summed = []
        for figures in self._steps:
            place = {row: number for number, row in enumerate(figures.utterances.tolist())}
            own = torch.zeros(len(place), device=self.setup.runtime.device)
            for rows, losses in figures.losses:
                own[[place[int(row)] for row in rows]] = losses.float()
            summed.append(own)
        every = iter(self.setup.runtime.sum(torch.cat(summed)).double().round(decimals=6).tolist())
        for figures in self._steps:
            utterances = figures.utterances.tolist()
            yield {
                "step": figures.step,
                "utterances": utterances,
                "losses": [_finite(next(every) or math.inf) for _ in utterances],
            }

    def _warn_of_unusable_losses(self) -> None:
        """Name the utterances whose loss is infinite (exactly 0 here, see `ctc_losses`) or not a number."""
        for figures in self._steps:
            for rows, losses in figures.losses:
                bad = ~torch.isfinite(losses) | (losses == 0)
                if bad.any():
                    names = [self.setup.split.utterances[int(row)].id for row in rows[bad.cpu().numpy()]]
                    log.warning(
                        "step %d: no finite loss for %d utterances: %s",
                        figures.step,
                        len(names),
                        ", ".join(names[:5]),
                    )

    def _give_up_if_hopeless(self, norms: list[float]) -> None:
        for norm in norms:
            self.state.skipped_steps += not math.isfinite(norm)
            self.state.skipped_in_a_row = 0 if math.isfinite(norm) else self.state.skipped_in_a_row + 1
        if self.state.skipped_in_a_row >= HOPELESS and not self.setup.scaler.is_enabled():
            raise UserError(
                f"No finite gradient for {self.state.skipped_in_a_row} steps, up to step {self.state.step}:"
                " training has diverged. The weights were left as they were; try a lower optimizer.lr, a"
                " longer schedule.warmup_steps, or trainer.precision=fp32."
            )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
