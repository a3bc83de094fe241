"""What is known of each step: fetched from the device now and then, summed over the ranks, written as lines
of metrics.jsonl.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from asr_exp.core.errors import UserError
from asr_exp.training.monitor import TrainingMonitor
from asr_exp.training.progress import Progress
from asr_exp.training.setup import TrainingSetup
from asr_exp.training.state import Hooks, State

log = logging.getLogger(__name__)

HOPELESS = 50  # steps in a row without a finite gradient, after which the run gives up


class StepMetrics:
    """Figures of steps not written yet, still on the device."""

    def __init__(self, job: TrainingSetup, state: State, hooks: Hooks, progress: Progress):
        self.job = job
        self.state = state
        self.hooks = hooks
        self.progress = progress
        self._steps: list[tuple[int, dict[str, Any]]] = []
        self._doctor = TrainingMonitor(job.recipe, state.warned)

    def add(self, step: int, figures: dict[str, Any]) -> None:
        self._steps.append((step, figures))

    def flush(self) -> None:
        """Fetch, sum over ranks and write what is pending. Raises UserError when no step has had a finite
        gradient for long.
        """
        if not self._steps:
            return
        sums = self.job.runtime.sum(torch.stack([f["sums"] for _, f in self._steps])).tolist()
        norms = torch.stack([f["norm"] for _, f in self._steps]).tolist()
        lines, losses = list(self._lines(sums, norms)), list(self._losses())
        self._name_doubtful()
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
        if self.job.runtime.main and (
            warning := self._doctor.look(lines, (row[1:] for row in sums), self.state.best.get("value"))
        ):
            self.hooks.tracker.log({"train/warning": warning}, lines[-1]["step"])
        self._give_up_if_hopeless(norms)

    def _lines(self, sums: list[list[float]], norms: list[float]) -> Iterator[Mapping[str, Any]]:
        for (step, _), (loss, *labels), norm in zip(self._steps, sums, norms, strict=True):
            yield {
                "step": step,
                "epoch": round((step - 1) / self.job.plan.steps_per_epoch, 4),
                "train/loss": _finite(loss),
                "train/lr": self.job.optimizer.param_groups[0]["peak_lr"] * self.job.factor(step),
                "train/grad_norm": _finite(norm),
                "train/blank_ratio": labels[self.job.blank] / frames if (frames := sum(labels)) else None,
            }

    def _losses(self) -> Iterator[Mapping[str, Any]]:
        """The loss of each utterance of a step, on whichever rank it was; None where it has none."""
        found = []
        for _, figures in self._steps:
            place = {index: number for number, index in enumerate(figures["utterances"].tolist())}
            found.append(torch.zeros(len(place), device=self.job.runtime.device))
            for indices, losses in figures["each"]:
                found[-1][[place[int(i)] for i in indices]] = losses.float()
        every = iter(self.job.runtime.sum(torch.cat(found)).double().round(decimals=6).tolist())
        for step, figures in self._steps:
            utterances = figures["utterances"].tolist()
            yield {
                "step": step,
                "utterances": utterances,
                "losses": [_finite(next(every) or math.inf) for _ in utterances],
            }

    def _name_doubtful(self) -> None:
        """Name the utterances without a usable loss: infinite (exactly 0 here, see `ctc_losses`) or not a
        number.
        """
        for step, figures in self._steps:
            for indices, losses in figures["each"]:
                bad = ~torch.isfinite(losses) | (losses == 0)
                if bad.any():
                    names = [self.job.split.utterances[int(i)].id for i in indices[bad.cpu().numpy()]]
                    log.warning(
                        "step %d: no finite loss for %d utterances: %s",
                        step,
                        len(names),
                        ", ".join(names[:5]),
                    )

    def _give_up_if_hopeless(self, norms: list[float]) -> None:
        for norm in norms:
            self.state.skipped_steps += not math.isfinite(norm)
            self.state.skipped_in_a_row = 0 if math.isfinite(norm) else self.state.skipped_in_a_row + 1
        if self.state.skipped_in_a_row >= HOPELESS and not self.job.scaler.is_enabled():
            raise UserError(
                f"No finite gradient for {self.state.skipped_in_a_row} steps, up to step {self.state.step}:"
                " training has diverged. The weights were left as they were; try a lower optimizer.lr, a"
                " longer schedule.warmup_steps, or trainer.precision=fp32."
            )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
