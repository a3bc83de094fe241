"""A forecast of the memory that training takes on a GPU, by parts: weights and what goes with them here,
activations in activations.py. The peak is where the backward pass begins: all of that is there, and the first
gradients are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from asr_exp.data.batch_plan import PassCost
from asr_exp.model.recogniser import Recogniser
from asr_exp.training.activations import ActivationCount, Activations

WORKSPACES = 66 * 2**20  # of cuBLAS, for the forward and for the backward thread
LAYER_SLACK = 5 * 2**20  # of the tensors of a layer together: what the allocator leaves over of its blocks
MOST_ELEMENTS = 2**31  # of a tensor; beyond, kernels need indices of 64 bits, which not all of them have


@dataclass(frozen=True)
class MemoryForecast:
    """The memory of a device in training, in bytes.

    fixed: what is there in every pass: weights, moments, averages. gradients: there too, but while a step's
    only pass begins. buckets: in which ranks sum their gradients while the last pass ends. activations: of a
    pass. most_seconds: in a pass, for other reasons than memory.
    """

    fixed: float
    gradients: float
    activations: Activations
    most_seconds: float
    buckets: float = 0.0

    def before(self, passes: int) -> float:
        """What is there when the largest of so many passes of a step begins. The gradients of the only one
        come while its activations go.
        """
        return self.fixed + (self.gradients if passes > 1 else 0.0)

    def peak(self, passes: Sequence[np.ndarray]) -> float:
        """The peak of a step with these passes, the lengths of whose utterances are given. The buckets of the
        last one come while its activations go.
        """
        after = self.buckets + (self.gradients if len(passes) <= 1 else 0.0)
        return self.before(len(passes)) + max([after, *map(self.activations.of_pass, passes)])

    def seconds_within(self, usable: float, longest: float) -> float:
        """The most that a pass may cost, of several in a step, for the peak to be within so many bytes.
        longest: seconds of the longest utterance.
        """
        left = usable - self.fixed - self.gradients
        return min(self.most_seconds, self.activations.seconds_within(left, longest))

    @property
    def pass_cost(self) -> PassCost:
        """What utterances count for in a pass, by the memory that they take."""
        return self.activations.pass_cost


@dataclass(frozen=True)
class TrainingMemory:
    """What a forecast goes by.

    cuda: whether the device is a GPU. half: whether activations have 2 bytes. checkpointing: of the encoder's
    layers. ema: whether the weights are averaged. moments: fp32 numbers that the optimizer keeps for each
    parameter. shards: ranks that share the weights (FSDP); 1: each has all. gathered: bytes of a weight in a
    block that they gather. ranks: whose gradients are summed (DDP).
    """

    model: Recogniser
    cuda: bool
    half: bool
    checkpointing: bool
    ema: bool
    moments: int
    shards: int
    ranks: int
    gathered: int = 4

    def forecast(self) -> MemoryForecast:
        """The forecast for a step of training that drops no layer."""
        c, info = self.model.network.config, self.model.info
        # The output of the first convolution has the most elements of all tensors.
        elements = c.conv_dim[0] * info.extractor.sampling_rate / c.conv_stride[0]
        return MemoryForecast(
            fixed=self._fixed(),
            gradients=self._gradients(),
            activations=ActivationCount(self.model, self.cuda, self.half, self.checkpointing).count(),
            most_seconds=MOST_ELEMENTS / elements,
            buckets=self._gradients() if self.ranks > 1 else 0.0,
        )

    def _fixed(self) -> float:
        """Weights in fp32, moments, the average, copies of weights in half precision, workspaces."""
        every, trained = (_count(ps) for ps in (self.model.parameters(), self._trained()))
        own = (4 * every + 4 * trained * (self.moments + self.ema)) / self.shards
        layers = list(self.model.blocks())
        of_torch = WORKSPACES + LAYER_SLACK * len(layers) if self.cuda else 0
        return own + self._copies(layers) + self._positional_filter() + of_torch

    def _copies(self, layers: Sequence[nn.Module]) -> float:
        """Autocast's copies of the weights of linear layers, which autograd keeps. With FSDP the gathered
        weights of two blocks, that at work and the next.
        """
        if self.shards > 1:
            two = 2 * self.gathered * max(_count(layer.parameters()) for layer in layers)
            return two + (self._copies_of(layers) if self.gathered == 4 else 0.0)
        return self._copies_of(layers)

    def _copies_of(self, layers: Sequence[nn.Module]) -> float:
        linear = (p for layer in layers for p in layer.parameters() if p.dim() > 1)
        return 2 * _count(linear) if self.half and not self.checkpointing else 0.0

    def _positional_filter(self) -> float:
        """The positional convolution's weight, which its norm makes anew in each pass, and its gradient."""
        conv = getattr(self.model.backbone.encoder, "pos_conv_embed", None)
        return 2.6 * 4 * _count(conv.parameters()) if conv is not None else 0.0

    def _gradients(self) -> float:
        return 4 * _count(self._trained()) / self.shards

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)
