"""The progress bar of training, or a line now and then where there is no terminal."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from asr_exp.core.console import clock
from asr_exp.core.log import log


class Progress:
    """Shows how far training is: a bar on a terminal, a line every half minute elsewhere. Rates count from
    the start of this process, not from that of a resumed run.
    """

    EVERY = 30.0  # seconds between lines where there is no terminal

    def __init__(self, step: int, total: int, enabled: bool):
        self.total, self.enabled = total, enabled
        self._began = time.monotonic()
        self._audio = 0.0
        self._first = step
        self._paused = 0.0
        self._last_line = self._began
        self._loss = ""
        on_terminal = enabled and sys.stderr.isatty()
        form = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
        self._bar = tqdm(
            total=total,
            initial=step,
            desc="training",
            dynamic_ncols=True,
            disable=not on_terminal,
            bar_format=form,
        )

    def advance(self, step: int, audio_seconds: float) -> None:
        """Step number `step`, of so many seconds of audio, is done."""
        self._audio += audio_seconds
        if not self.enabled:
            return
        self._bar.set_postfix_str(self._state(step), refresh=False)
        self._bar.update(1)
        if self._bar.disable and time.monotonic() - self._last_line > self.EVERY:
            self._last_line = time.monotonic()
            log.info("step %d/%d  %s", step, self.total, self._state(step))

    def loss(self, value: float) -> None:
        """Show this loss from now on."""
        self._loss = f"loss {value:.3f}, "

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time that goes into scoring dev out of the rate."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    @property
    def seconds(self) -> float:
        """Since the start, pauses included."""
        return time.monotonic() - self._began

    @property
    def rate(self) -> float:
        """Audio seconds per second of training."""
        return self._audio / max(1e-9, self.seconds - self._paused)

    def _state(self, step: int) -> str:
        done = max(1, step - self._first)
        left = self.seconds / done * (self.total - step)
        return f"{self._loss}{self.rate:.0f} audio-s/s, ETA {clock(left)}"

    def close(self) -> None:
        self._bar.close()
