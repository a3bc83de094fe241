"""How much audio a pass may have, after one did not fit into memory."""

import json
import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path

from asr_exp.runtime.distributed import Runtime

log = logging.getLogger(__name__)


@dataclass
class PassLimit:
    """The most audio that fitted into a pass, where one did not: passes of more are made in parts.

    seconds: of audio in a part; None: every pass is whole. file: where ranks that start again find it.
    """

    seconds: float | None = None
    file: Path | None = None

    def lower(self, seconds: float | None) -> None:
        """Set the limit to so many seconds, to the millisecond below, unless it is lower already."""
        if seconds is not None:
            self.seconds = min(math.floor(1000 * seconds + 1e-6) / 1000, self.seconds or math.inf)

    def write(self) -> None:
        """Write the limit to its file."""
        if self.file:
            beside = self.file.with_name(f"{self.file.name}.{os.getpid()}")
            beside.write_text(json.dumps({"seconds": self.seconds}))
            beside.replace(self.file)

    def agree(self, runtime: Runtime) -> None:
        """Take the lowest limit of all ranks."""
        none = 2**62
        own = none if self.seconds is None else round(1000 * self.seconds)
        lowest = -runtime.all_reduce_max(-own)
        if lowest < own:
            self.seconds = lowest / 1000
            log.info("On another rank a pass did not fit into memory: parts of at most %.0f s.", self.seconds)
