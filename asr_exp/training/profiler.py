"""Where the time of training goes: torch's profiler, over a few steps."""

import logging
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class Profile:
    """Profiles a few steps after the first three, and writes `profile.json` for chrome://tracing and
    `profile.txt` with the costliest operations. With steps=0 it does nothing.
    """

    WARM_UP = 3

    def __init__(self, folder: Path, steps: int):
        self.folder = folder
        self._profiler: Any = None
        if steps:
            import torch

            schedule = torch.profiler.schedule(wait=self.WARM_UP - 1, warmup=1, active=steps, repeat=1)
            self._profiler = torch.profiler.profile(schedule=schedule, on_trace_ready=self._write)
            self._profiler.start()

    def step(self) -> None:
        """A training step is over."""
        if self._profiler:
            self._profiler.step()

    def _write(self, profiler: Any) -> None:
        profiler.export_chrome_trace(str(self.folder / "profile.json"))
        table = profiler.key_averages().table(
            sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=40
        )
        (self.folder / "profile.txt").write_text(table, encoding="utf-8")
        log.info("Profiled: see %s and profile.json (chrome://tracing).", self.folder / "profile.txt")

    def close(self) -> None:
        if self._profiler:
            self._profiler.stop()
