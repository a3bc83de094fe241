"""An exponential moving average of the weights."""

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """Exponential moving average of the trained weights (Polyak & Juditsky 1992). It starts at the weights
    before the first step.
    """

    def __init__(self, model: nn.Module, decay: float):
        """decay: the largest share of the old average that a step keeps."""
        self.decay = decay
        self._live = [p for p in model.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self._live]

    def update(self, step: int) -> None:
        """Take in the weights after step number `step` (from 1)."""
        # With few steps the average follows closely, so that early evaluations do not score the initial
        # weights.
        decay = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(self.average, [p.detach() for p in self._live], step)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the live weights and the average; a second call undoes it."""
        for live, average in zip(self._live, self.average, strict=True):
            before = live.detach().clone()
            live.copy_(average)
            average.copy_(before)
