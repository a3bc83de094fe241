"""A forecast of the memory that training takes on a GPU, by parts.

What autograd keeps for the backward pass is counted tensor by tensor, in bytes for each encoder frame. H is
the hidden size, I the intermediate size of the feed-forward layers; an activation has 4 bytes in fp32, and 2
under autocast to bf16 or fp16, which runs norms in fp32 all the same and casts the input of each linear layer
anew. The peak is where the backward pass begins: all of that is there, and the first gradients are.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from asr_exp.data.batch_plan import PassCost
from asr_exp.model.recogniser import Recogniser
from asr_exp.model.transformers_patches import PACKED_ATTENTION

WORKSPACES = 66 * 2**20  # of cuBLAS, for the forward and for the backward thread
LAYER_SLACK = 5 * 2**20  # of the tensors of a layer together: what the allocator leaves over of its blocks
MOST_ELEMENTS = 2**31  # of a tensor; beyond, kernels need indices of 64 bits, which not all of them have
KEEP_SCORES = ("sew-d",)  # attention of their own, in plain operations, which keeps its scores


@dataclass(frozen=True)
class MemoryForecast:
    """The memory of a device in training, in bytes.

    fixed: what is there in every pass: weights, moments, averages. gradients: there too, but while a step's
    only pass begins. buckets: in which ranks sum their gradients while the last pass ends. per_second: of
    audio in a pass. per_square: of the square of the seconds of each utterance. most_seconds: in a pass, for
    other reasons than memory. padded: whether passes are padded.
    """

    fixed: float
    gradients: float
    per_second: float
    per_square: float
    most_seconds: float
    padded: bool = False
    buckets: float = 0.0

    def of_pass(self, cost: float) -> float:
        """The activations of a pass that costs so many seconds, see `pass_cost`."""
        return self.per_second * cost

    def peak(self, cost: float, passes: int) -> float:
        """The peak of a step with so many passes, the largest of which costs so many seconds.

        The gradients of the only pass of a step, and the buckets of the last one, come while activations go.
        """
        before, after = (0.0, self.gradients) if passes == 1 else (self.gradients, 0.0)
        return self.fixed + before + max(self.of_pass(cost), after + self.buckets)

    def seconds_within(self, usable: float) -> float:
        """The most that a pass may cost, of several in a step, for the peak to be within so many bytes."""
        return min(self.most_seconds, (usable - self.fixed - self.gradients) / self.per_second)

    @property
    def pass_cost(self) -> PassCost:
        """What utterances count for in a pass, by the memory that they take."""
        return PassCost(self.per_second / self.per_square if self.per_square else math.inf, self.padded)


@dataclass(frozen=True)
class TrainingMemory:
    """What a forecast goes by.

    cuda: whether the device is a GPU. half: whether activations have 2 bytes. checkpointing: of the encoder's
    layers. ema: whether the weights are averaged. moments: fp32 numbers that the optimizer keeps for each
    parameter. shards: ranks that share the weights (FSDP); 1: each has all. ranks: whose gradients are summed
    (DDP).
    """

    model: Recogniser
    cuda: bool
    half: bool
    checkpointing: bool
    ema: bool
    moments: int
    shards: int
    ranks: int

    def forecast(self) -> MemoryForecast:
        """The forecast for a step of training."""
        c, info = self.model.network.config, self.model.info
        frames_a_second = info.extractor.sampling_rate / math.prod(c.conv_stride)
        front = self._front_end()
        # SEW's encoder has a frame for several of the front end's
        stored = front.kept + (self._outside_layers() + self._layers()) / getattr(c, "squeeze_factor", 1)
        # The output of the first convolution has the most elements of all tensors.
        elements = c.conv_dim[0] * info.extractor.sampling_rate / c.conv_stride[0]
        return MemoryForecast(
            fixed=self._fixed(),
            gradients=self._gradients(),
            per_second=frames_a_second * max(stored, front.passing),
            per_square=frames_a_second**2 * self._scores(),
            most_seconds=MOST_ELEMENTS / elements,
            padded=self.model.padding != "exact",
            buckets=self._gradients() if self.ranks > 1 else 0.0,
        )

    # -- weights

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
            return 2 * 4 * max(_count(layer.parameters()) for layer in layers) + self._copies_of(layers)
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

    # -- activations, in bytes for each encoder frame

    def _layers(self) -> float:
        """What the encoder's layers keep, of which layerdrop drops some; with checkpointing each keeps its
        input, and one has all.
        """
        c = self.model.network.config
        if self.checkpointing:
            return 4 * c.hidden_size * c.num_hidden_layers + self._layer()
        return self._layer() * c.num_hidden_layers * (1 - self.model.layerdrop)

    def _layer(self) -> float:
        """What a layer keeps: attention by a fused kernel, two norms, the feed-forward layers."""
        c, a = self.model.network.config, self._bytes
        h, i = c.hidden_size, c.intermediate_size
        heads = c.num_attention_heads
        # the input of the projections (autocast casts it for each of the three); query, key and value; what
        # attention gives out, and the logarithm of its sums
        attention = (3 * a if self.half else a) * h + 3 * a * h + a * h + 4 * heads
        if c.model_type == "wavlm":  # padded copies, and the gate
            attention += 4 * h + 24 * heads
        norms = 2 * 4 * h  # their inputs, in fp32 always
        # the input (a norm's output: autocast casts it), before and after the activation
        feed_forward = (a * h) + 2 * a * i
        masks = 2 * h * (_rate(c, "hidden_dropout") > 0) + i * (_rate(c, "activation_dropout") > 0)
        return attention + norms + feed_forward + masks

    def _outside_layers(self) -> float:
        """What lies around the layers: the projection of the features, the encoder's first norm, the logits
        and their gradient; and where the backward pass begins, the gradients of the last layer's activations.
        """
        c, a = self.model.network.config, self._bytes
        features = (11 if self.half else 22) * c.conv_dim[-1]
        return features + 8 * c.hidden_size + 2 * a * c.intermediate_size + (3 * 4 + a) * c.vocab_size

    def _scores(self) -> float:
        """Bytes for each pair of frames of an utterance: of the scores of one layer's attention, where it has
        a bias (with their gradients, while that layer's backward pass lasts); of all layers where they are
        kept.
        """
        c = self.model.network.config
        fused = c.model_type == "wavlm" or c._attn_implementation in ("sdpa", PACKED_ATTENTION["sdpa"])
        if not self.cuda or c.model_type in KEEP_SCORES or not fused:
            layers = 1 if self.checkpointing else c.num_hidden_layers
            return 3 * self._bytes * c.num_attention_heads * layers  # two of them, and what dropout keeps
        return 9 * c.num_attention_heads if c.model_type == "wavlm" else 0.0

    @property
    def _bytes(self) -> int:
        return 2 if self.half else 4

    def _front_end(self) -> "_FrontEnd":
        """The convolutional front end, whose layers have fewer frames from one to the next."""
        c, a = self.model.network.config, self._bytes
        strides = [
            math.prod(c.conv_stride[number:]) // c.conv_stride[number] for number in range(len(c.conv_stride))
        ]
        sizes = [frames * channels for frames, channels in zip(strides, c.conv_dim, strict=True)]
        if c.feat_extract_norm == "layer":
            # the norm's input and output in fp32, and what the next convolution reads
            each = 10 if self.half else 12
            passing = each
        else:
            each, passing = 2 * a, 2 * a  # before and after the activation
        if self.model.front_end.frozen:
            return _FrontEnd(0.0, passing * sizes[0])
        if self.checkpointing and c.feat_extract_norm == "layer":
            # inputs in fp32; the first layer runs again at the very end
            return _FrontEnd(4 * sum(sizes[:-1]), 16 * sizes[0])
        norm = (
            0 if self.model.front_end.packed else 6 * sizes[0]
        )  # torch's group norm keeps its input in fp32
        return _FrontEnd(each * sum(sizes) + norm * (c.feat_extract_norm == "group"), 0.0)


@dataclass(frozen=True)
class _FrontEnd:
    """Bytes for each encoder frame. kept: for the backward pass. passing: while the front end runs."""

    kept: float
    passing: float


def _rate(config: Any, name: str) -> float:
    return float(getattr(config, name, 0.0) or 0.0)


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)
