"""The training monitor: tells a run that does not learn, or no longer learns, from one that is warming up.

CTC starts by emitting blanks alone. The published fine-tuning curves stay at a WER of 1.0 for their first 300
to 1000 steps, and random weights take a few hundred; the monitor warns only after that.
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
    """The figures of WINDOW steps in a row. loss, blank: the medians of the loss and of the share of frames
    whose likeliest label is the blank. label, share: the label emitted most often beside the blank, and its
    share of the frames that are not blank.
    """

    step: int  # the last of the window
    loss: float | None
    blank: float
    label: int
    share: float


@dataclass(frozen=True)
class Recipe:
    """The settings of a run that tell what is normal for it.

    total: its steps. settled: the first step at the peak learning rate with everything being trained. lr: the
    peak. tokens: the names of the labels; blank: the index of the CTC blank among them.
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
        """The last step up to which a run may have learned nothing."""
        return self.settled + min(QUIET[1], max(QUIET[0], self.total // 5))


def diagnose(recipe: Recipe, windows: Sequence[Window], dev: float | None) -> tuple[str, str] | None:
    """Tell what is wrong with a run: the kind of trouble, and a message with what was seen and what to try;
    None where all is as it should be at this step.

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
    """The message for a run that diverges: its loss is twice its lowest, and at least a third of its first,
    which a loss that wavers near zero does not reach.
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
    """Follows the figures of a run, and warns once of each kind of trouble.

    warned: the kinds it has warned of, a list that a checkpoint keeps and this extends. The windows are
    collected anew when a run resumes.
    """

    def __init__(self, recipe: Recipe, warned: list[str]):
        self.recipe = recipe
        self.warned = warned
        self._windows: list[Window] = []
        self._lines: list[tuple[Mapping[str, Any], Sequence[float]]] = []

    def observe(
        self, lines: Iterable[Mapping[str, Any]], labels: Iterable[Sequence[float]], dev: float | None
    ) -> str | None:
        """Take in steps, and return a warning, which is logged too, or None.

        lines: those of metrics.jsonl, one for each step; labels: for each step the number of frames by their
        likeliest label, (labels,); dev: the best error rate on dev so far, a fraction.
        """
        self._lines += zip(lines, labels, strict=True)
        trouble = None
        while len(self._lines) >= WINDOW:
            self._windows.append(_window(self._lines[:WINDOW], self.recipe.blank))
            del self._lines[:WINDOW]
            trouble = diagnose(self.recipe, self._windows, dev) or trouble
        if trouble is None or trouble[0] in self.warned:
            return None
        kind, message = trouble
        self.warned.append(kind)
        log.warning("%s", message)
        return message


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
