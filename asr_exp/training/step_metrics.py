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
        sums, norms, losses_of = self._fetch()
        lines, losses = list(self._lines(sums, norms)), list(self._losses(losses_of))
        self._warn_of_unusable_losses(losses_of)
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

    def _fetch(self) -> tuple[list[list[float]], list[float], list[torch.Tensor]]:
        """Fetch everything from the device, which is waited for once: the sums of each step over the ranks,
        its norm, and the loss of each of its utterances, in fp32, whichever rank had it.
        """
        runtime = self.setup.runtime
        sums = runtime.sum(torch.stack([one.sums for one in self._steps]))
        norms = torch.stack([one.norm for one in self._steps])
        places, before = [], 0
        for figures in self._steps:
            place = {row: before + number for number, row in enumerate(figures.utterances.tolist())}
            places += [place[int(row)] for rows, _ in figures.losses for row in rows]
            before += len(place)
        losses = torch.zeros(before, device=runtime.device)
        if places:
            index = torch.tensor(places, pin_memory=losses.is_cuda).to(losses.device, non_blocking=True)
            own = torch.cat([loss.float() for figures in self._steps for _, loss in figures.losses])
            losses.index_copy_(0, index, own)
        losses = runtime.sum(losses)
        fetched = torch.cat([t.flatten().double() for t in (sums, norms, losses)]).cpu()
        flat, norm_of, loss_of = fetched.split([sums.numel(), norms.numel(), losses.numel()])
        return (
            flat.view(sums.shape).tolist(),
            norm_of.tolist(),
            list(loss_of.split([len(one.utterances) for one in self._steps])),
        )

    def _losses(self, losses: list[torch.Tensor]) -> Iterator[Mapping[str, Any]]:
        """The loss of each utterance of a step, whichever rank had it; None where it is not finite."""
        for figures, own in zip(self._steps, losses, strict=True):
            yield {
                "step": figures.step,
                "utterances": figures.utterances.tolist(),
                "losses": [_finite(loss or math.inf) for loss in own.round(decimals=6).tolist()],
            }

    def _warn_of_unusable_losses(self, losses: list[torch.Tensor]) -> None:
        """Name this rank's utterances whose loss is infinite (exactly 0 here, see `ctc_losses`) or not a
        number.
        """
        for figures, of_step in zip(self._steps, losses, strict=True):
            bad = set(figures.utterances[(~torch.isfinite(of_step) | (of_step == 0)).numpy()].tolist())
            for rows, _ in figures.losses:
                names = [self.setup.split.utterances[int(row)].id for row in rows if int(row) in bad]
                if names:
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
