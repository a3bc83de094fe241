"""An exponential moving average of the weights."""

import torch
from torch import nn


class Ema:
    """Exponential moving average of the trained weights (Polyak & Juditsky 1992), started from the first
    step's weights.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self._live = [p for p in model.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self._live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        # The average of few steps follows closely, so that early evaluations do not score the initial
        # weights.
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self._live], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the live weights and the average; a second call undoes it."""
        for live, average in zip(self._live, self.average, strict=True):
            kept = live.detach().clone()
            live.copy_(average)
            average.copy_(kept)
