"""The real-time factor of scoring: how many seconds of audio are scored in a second (RTFx)."""

import time
from collections.abc import Mapping
from typing import Any

import torch

from asr_exp.runtime.distributed import Runtime

IN_FLIGHT = 2  # passes that are under way when the first has its result


class Stopwatch:
    """Measures the passes of a score after the first, which warms up the device.

    The time runs from the first result on. The next pass was under way by then, so its audio is not counted.

    Args:
        runtime: the ranks, which share the passes.
        warm: whether a pass was made before, so that all passes count, from now on.
    """

    def __init__(self, runtime: Runtime, warm: bool = False):
        self._first, self._counted = (0, 0) if warm else (runtime.world, IN_FLIGHT * runtime.world)
        self._passes = 0
        self._audio_seconds = 0.0
        self._began = self._ended = time.perf_counter()

    def passed(self, audio_seconds: float) -> None:
        """Count a pass whose hypotheses are scored. audio_seconds: of its utterances together."""
        self._passes += 1
        self._ended = time.perf_counter()
        if self._passes <= self._first:
            self._began = self._ended
        elif self._passes > self._counted:
            self._audio_seconds += audio_seconds

    def figures(self) -> dict[str, float] | None:
        """`rtfx`, `audio_seconds` and `wall_seconds`; None where there were too few passes."""
        wall = self._ended - self._began
        if not self._audio_seconds or wall <= 0:
            return None
        return {
            "rtfx": round(self._audio_seconds / wall, 2),
            "audio_seconds": round(self._audio_seconds, 2),
            "wall_seconds": round(wall, 6),
        }


def machine(runtime: Runtime, name: str, precision: str, pass_seconds: float) -> dict[str, Any]:
    """What a speed depends on besides the model and the decoder.

    Args:
        runtime: the ranks.
        name: of the GPU or the processor.
        precision: as `evaluate.precision`.
        pass_seconds: the most audio in a forward pass.

    Returns:
        The entries that stand beside an RTFx in result.json.
    """
    return {
        "device": name,
        "devices": runtime.world,
        "threads": torch.get_num_threads(),
        "precision": precision,
        "batch_seconds": pass_seconds,
    }


def in_words(speed: Mapping[str, Any]) -> str:
    """'RTFx 93.1 (NAME, 2 threads, fp32)': a speed as result.json has it."""
    many = f"{speed['devices']} x " if speed["devices"] > 1 else ""
    threads = f"{speed['threads']} thread{'s' * (speed['threads'] > 1)}"
    return f"RTFx {speed['rtfx']:,.1f} ({many}{speed['device']}, {threads}, {speed['precision']})"
