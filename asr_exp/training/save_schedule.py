"""When training saves a checkpoint besides the one at each evaluation: `trainer.save_every`."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


class SaveSchedule:
    """Decides after each step whether a checkpoint is due, so that a run that is killed loses no more than
    `every`: a number of steps ("500"), or a time ("10min", "30s", "1h").

    By the clock it looks ahead: at the step that comes next, which may include an evaluation, and at what
    saving itself takes.

    Raises ValueError for an `every` of another form.
    """

    def __init__(self, every: str | int):
        self.steps: int | None = None
        self.seconds: float | None = None
        matched = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h)?", str(every).strip())
        if not matched or not float(matched[1]) or not matched[2] and "." in matched[1]:
            raise ValueError(every)
        if matched[2]:
            self.seconds = float(matched[1]) * UNITS[matched[2]]
        else:
            self.steps = int(matched[1])
        self._saved = self._stepped = time.monotonic()
        self._step_takes = self._saving_takes = 0.0
        self._scoring_takes: float | None = None

    def stepped(self) -> None:
        """A step is over."""
        now = time.monotonic()
        self._step_takes = now - self._stepped
        self._stepped = now

    def is_due(self, step: int, scored_next: bool) -> bool:
        """Whether to save after a step. scored_next: the step after it ends with an evaluation."""
        if self.steps:
            return step % self.steps == 0
        assert self.seconds is not None
        ahead = self._step_takes + self._saving_takes
        if scored_next:  # how long the first takes is not known
            ahead += self.seconds / 2 if self._scoring_takes is None else self._scoring_takes
        return time.monotonic() - self._saved + ahead > self.seconds

    @contextmanager
    def scoring(self) -> Iterator[None]:
        """Measure how long an evaluation takes."""
        began = time.monotonic()
        yield
        self._scoring_takes = time.monotonic() - began

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Measure how long saving takes; what comes after counts from there."""
        began = time.monotonic()
        yield
        self._saved = self._stepped = time.monotonic()
        self._saving_takes = self._saved - began
