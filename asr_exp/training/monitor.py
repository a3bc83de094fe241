"""The plateau doctor: tells a run that is not learning, or no longer, from one that is only still warming up.

CTC starts by emitting blanks alone. The published fine-tuning curves stay at a WER of 1.0 for their first 300
to 1000 steps, and random weights take a few hundred; what is said here is said beyond that.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

log = logging.getLogger(__name__)

WINDOW = 50  # steps that are judged together, by their medians
# steps after warm-up in which nothing need happen: a fifth of the run, within these bounds
QUIET = (300, 1000)
ALL_BLANK = 0.98  # blank ratio; runs that learn come down to 0.95 and less, also where speech is slow
ONE_LABEL = 0.9  # share of the labels emitted; spaces are about a fifth of a text
UNLEARNED = 0.95  # dev error rate


@dataclass(frozen=True)
class Window:
    """What WINDOW steps in a row were like: medians, and the label most often emitted beside the blank with
    its share of those frames.
    """

    step: int  # the last of them
    loss: float | None
    blank: float
    label: int
    share: float


@dataclass(frozen=True)
class Recipe:
    """What is normal for a run depends on these.

    settled: the first step at the peak learning rate, with all that is to be trained; tokens: the labels'
    names; blank: one of them.
    """

    total: int
    settled: int
    lr: float
    tokens: Sequence[str]
    blank: int
    comparable_from: int = 0  # losses before this step are of shorter utterances
    front_end_trained: bool = False

    @property
    def patience(self) -> int:
        """The last step at which a run may have learned nothing yet."""
        return self.settled + min(QUIET[1], max(QUIET[0], self.total // 5))


def diagnose(recipe: Recipe, windows: Sequence[Window], dev: float | None) -> tuple[str, str] | None:
    """(kind of trouble, what was seen and what to try), or None where all is as it should be at this step.

    windows: oldest first; dev: the best error rate on dev so far, a fraction.
    """
    if not windows:
        return None
    now = windows[-1]
    if trouble := _diverging(recipe, windows):
        return "diverging", trouble
    if now.step <= recipe.patience or len(windows) < 2 or (dev is not None and dev < UNLEARNED):
        return None
    seen = f"Step {now.step} of {recipe.total}" + (
        "" if dev is None else f", dev error rate still {100 * dev:.0f} %"
    )
    if min(w.blank for w in windows[-2:]) >= ALL_BLANK:
        return (
            "plateau",
            (
                f"{seen}: {100 * now.blank:.1f} % of the frames are blank, which a run that learns has left"
                f" behind by step {recipe.patience}. {_what_to_try(recipe)}"
            ),
        )
    if min(w.share for w in windows[-2:]) >= ONE_LABEL and len({w.label for w in windows[-2:]}) == 1:
        token = recipe.tokens[now.label].strip() if now.label < len(recipe.tokens) else f"number {now.label}"
        name = "the space" if token in ("|", "") else repr(token)
        return (
            "one label",
            (
                f"{seen}: {100 * now.share:.0f} % of all labels emitted are {name}. The model has learned how"
                f" often labels come, and nothing of the audio. {_what_to_try(recipe)}"
            ),
        )
    return None


def _diverging(recipe: Recipe, windows: Sequence[Window]) -> str | None:
    """The loss at twice its lowest and a third of its first: above the noise of a loss that has come close to
    zero.
    """
    losses = [
        (w.step, w.loss) for w in windows if w.loss is not None and w.step - WINDOW >= recipe.comparable_from
    ]
    if len(losses) < 3:
        return None
    at, lowest = min(losses[:-2], key=lambda one: one[1])
    last = min(losses[-1][1], losses[-2][1])
    if last < 2 * lowest or last < losses[0][1] / 3:
        return None
    return (
        f"The training loss has gone up from {lowest:.3g} at step {at} to {losses[-1][1]:.3g} at step"
        f" {losses[-1][0]}: it diverges. Try optimizer.lr={recipe.lr / 3:.1g} (it is {recipe.lr:.1g}), a"
        " longer schedule.warmup_steps, a smaller optimizer.clip_norm, or trainer.precision=fp32."
    )


def _what_to_try(recipe: Recipe) -> str:
    tries = [
        (
            "look at the data first: `check` with the same settings finds transcripts that do not fit their"
            " audio, or their vocabulary"
        ),
        f"optimizer.lr={recipe.lr / 3:.1g} or {recipe.lr * 3:.1g} (it is {recipe.lr:.1g})",
        "a longer schedule.warmup_steps",
        "a smaller trainer.batch_seconds, which makes more steps of the same audio",
    ]
    if recipe.front_end_trained:
        tries.append("model.freeze_front_end=true for a pretrained checkpoint")
    return f"Try, in this order: {'; '.join(tries)}."


class TrainingMonitor:
    """Follows a run and speaks up once of each kind of trouble.

    said: the kinds already told of, which a checkpoint keeps; the windows begin anew when a run resumes.
    """

    def __init__(self, recipe: Recipe, said: list[str]):
        self.recipe, self.said = recipe, said
        self._windows: list[Window] = []
        self._lines: list[tuple[Mapping[str, Any], Sequence[float]]] = []

    def look(
        self, lines: Iterable[Mapping[str, Any]], labels: Iterable[Sequence[float]], dev: float | None
    ) -> str | None:
        """The warning, if there is one, which is logged too.

        lines: as in metrics.jsonl; labels: frames by the label emitted; both one a step.
        """
        self._lines += zip(lines, labels, strict=True)
        found = None
        while len(self._lines) >= WINDOW:
            self._windows.append(_window(self._lines[:WINDOW], self.recipe.blank))
            del self._lines[:WINDOW]
            found = diagnose(self.recipe, self._windows, dev) or found
        if found is None or found[0] in self.said:
            return None
        self.said.append(found[0])
        log.warning("%s", found[1])
        return found[1]


def _window(steps: Sequence[tuple[Mapping[str, Any], Sequence[float]]], blank: int) -> Window:
    losses = [line["train/loss"] for line, _ in steps if line["train/loss"] is not None]
    blanks = [line["train/blank_ratio"] for line, _ in steps if line["train/blank_ratio"] is not None]
    columns = zip(*(counts for _, counts in steps), strict=True)
    frames = [0.0 if label == blank else sum(column) for label, column in enumerate(columns)]
    label = max(range(len(frames)), key=frames.__getitem__)
    share = frames[label] / sum(frames) if sum(frames) else 0.0
    return Window(
        steps[-1][0]["step"],
        median(losses) if losses else None,
        median(blanks) if blanks else 0.0,
        label,
        share,
    )
