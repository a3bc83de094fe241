"""What a forward and backward pass takes on a GPU beside weights and gradients, counted tensor by tensor.

H is the hidden size, I the intermediate size of the feed-forward layers; an activation has 4 bytes in fp32,
and 2 under autocast to bf16 or fp16, which runs norms in fp32 all the same and casts the input of each linear
layer anew. `a` is that number. Numbers are bytes for each frame of the front end, unless they say otherwise.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from asr_exp.data.batch_plan import PassCost
from asr_exp.model.layout import MAX_CALL_PAIRS, MAX_PADDED_PAIRS, runs_of_near_lengths
from asr_exp.model.recogniser import Recogniser
from asr_exp.model.transformers_patches import PACKED_ATTENTION


@dataclass(frozen=True)
class Activations:
    """Bytes of a pass. An utterance that goes through the network alone (one_by_one) works alone as well.

    kept: for the backward pass, for each second. Besides, for each second of what is computed at a time:
    again, of a layer whose activations are computed again; working, where the backward pass begins;
    front_end, while that runs and no more is there than what utterances before have kept. freed: what is no
    longer there when the backward pass has come to attention. layer: of `kept`, what one encoder layer has.
    utterance: kept for each utterance. kept_squares: for the square of the seconds of each utterance.
    working_squares: for the squares of those whose attention is computed in one call. frames_a_second: of an
    encoder layer.
    """

    kept: float
    again: float = 0.0
    working: float = 0.0
    front_end: float = 0.0
    freed: float = 0.0
    layer: float = 0.0
    utterance: float = 0.0
    kept_squares: float = 0.0
    working_squares: float = 0.0
    frames_a_second: float = 50.0
    one_by_one: bool = False
    padded: bool = False

    def of_pass(self, seconds: np.ndarray, dropped: int = 0) -> float:
        """The bytes of a pass over utterances of these lengths, with so many layers dropped."""
        if not len(seconds):
            return 0.0
        count, longest = len(seconds), float(seconds.max())
        total = count * longest if self.padded else float(seconds.sum())
        squares = count * longest**2 if self.padded else float(np.square(seconds).sum())
        at_once = longest if self.one_by_one else total
        each = self.kept - dropped * self.layer
        kept = each * total + self.utterance * count + self.kept_squares * squares
        attention = self.working_squares * self._squares_in_a_call(seconds) if self.working_squares else 0.0
        backward = max(self.working * at_once, attention - self.freed * at_once)
        before = np.cumsum(each * seconds + self.utterance) - each * seconds if self.one_by_one else 0.0
        front_end = before + self.front_end * (seconds if self.one_by_one else at_once)
        return max(float(np.max(front_end)), kept + self.again * at_once + backward)

    def _squares_in_a_call(self, seconds: np.ndarray) -> float:
        """The squared seconds of the largest call of attention."""
        longest = float(seconds.max())
        if self.one_by_one:
            return longest**2
        if self.padded:
            return len(seconds) * longest**2
        frames = np.sort(np.rint(seconds * self.frames_a_second).astype(int))[::-1].tolist()
        calls = runs_of_near_lengths(frames, MAX_PADDED_PAIRS["cuda"], MAX_CALL_PAIRS)
        return max((last - first) * frames[first] ** 2 for first, last in calls) / self.frames_a_second**2

    def seconds_within(self, usable: float, longest: float) -> float:
        """The most that a pass may cost for its activations to be within so many bytes. longest: seconds of
        the longest utterance there is.
        """
        pairs = MAX_CALL_PAIRS / self.frames_a_second**2
        working = self.again + self.working
        if self.one_by_one:
            besides = working * longest + self.working_squares * longest**2
            return (usable - max(besides, self.front_end * longest)) / self.kept
        each = self.kept + working
        capped = (usable - self.working_squares * max(pairs, longest**2)) / each
        attention = max(capped, usable / (each + self.working_squares * longest))
        return min(attention, usable / self.front_end if self.front_end else math.inf)

    @property
    def pass_cost(self) -> PassCost:
        """What utterances count for in a pass, by the memory that they take."""
        each = self.kept + (0.0 if self.one_by_one else self.again + self.working)
        doubling = each / self.kept_squares if self.kept_squares else math.inf
        return PassCost(doubling, self.padded, self.utterance / each)


@dataclass(frozen=True)
class ActivationCount:
    """Counts the activations of a network. half: whether they have 2 bytes; checkpointing: of the encoder's
    layers.
    """

    model: Recogniser
    cuda: bool
    half: bool
    checkpointing: bool

    def count(self) -> Activations:
        """The activations of a pass."""
        c = self._config
        rate = self.model.info.extractor.sampling_rate / math.prod(c.conv_stride)
        layers, squeezed = c.num_hidden_layers, rate / self._squeeze
        layer, inputs = self._layer(), 4 * c.hidden_size  # of a layer that is computed again
        front_end, passing = self._front_end()
        kept_squares, working_squares = self._squares()
        each = inputs if self.checkpointing else layer
        return Activations(
            kept=rate * (front_end + self._outside_layers()) + squeezed * each * layers,
            again=squeezed * layer if self.checkpointing else 0.0,
            working=squeezed * self._working(),
            freed=squeezed * self._after_attention() + rate * self._logits(),
            front_end=rate * passing,
            layer=squeezed * each,
            utterance=self._utterance(),
            kept_squares=squeezed**2 * kept_squares,
            working_squares=squeezed**2 * working_squares,
            frames_a_second=squeezed,
            one_by_one=self.model.one_by_one,
            padded=self.model.padding != "exact",
        )

    @property
    def _config(self) -> Any:
        return self.model.network.config

    @property
    def _bytes(self) -> int:
        return 2 if self.half else 4

    @property
    def _squeeze(self) -> int:
        """Frames of the front end for a frame of an encoder layer."""
        return getattr(self._config, "squeeze_factor", 1)

    @property
    def _packed(self) -> bool:
        return self.model.front_end.packed

    # -- the encoder

    def _layer(self) -> float:
        """What a layer keeps for a frame of its own, of attention by a fused kernel."""
        c, a = self._config, self._bytes
        h, i = c.hidden_size, c.intermediate_size
        heads = c.num_attention_heads
        # the input of the projections (autocast casts it for each of the three); query, key and value; what
        # attention gives out, and the logarithm of its sums
        attention = (3 * a if self.half else a) * h + 3 * a * h + a * h + 4 * heads
        norms = 2 * 4 * h  # their inputs, in fp32 always
        # the input (a norm's output: autocast casts it), before and after the activation
        feed_forward = (a * h) + 2 * a * i
        masks = 2 * h * (_rate(c, "hidden_dropout") > 0) + i * (_rate(c, "activation_dropout") > 0)
        if c.model_type == "wavlm":  # padded copies, and the gate
            attention += 4 * h + 24 * heads
        if c.model_type == "sew-d":
            # the scaled key, the scores against each distance before they are picked, twice; an activation
            # in plain operations
            attention += a * h + 2 * a * heads * self._distances
            feed_forward, masks = (a * h) + 4 * a * i, 2 * h
        return attention + norms + feed_forward + masks

    def _outside_layers(self) -> float:
        """What lies around the layers and is kept: the input of the features' norm and projection, what the
        positional convolution reads and gives, the encoder's norm, the logits and their gradient.
        """
        c, a = self._config, self._bytes
        h, squeeze = c.hidden_size, self._squeeze
        features = (4 + a) * c.conv_dim[-1]
        positions = 2 * a * h / squeeze + a * h
        if c.model_type == "data2vec-audio":  # several convolutions, each with a norm
            positions = c.num_conv_pos_embeddings * (8 + a) * h
        elif c.model_type in ("sew", "sew-d"):  # its input is whole; and the layer that brings frames back
            positions = a * h + a * h / squeeze + (a * h / squeeze + a * h)
        norm = (4 * h + h) / squeeze  # and the dropout behind it
        return features + positions + norm + a * h + h + self._logits()

    def _working(self) -> float:
        """Where the backward pass begins: gradients of the last layer's activations."""
        c, a = self._config, self._bytes
        return 8 * c.hidden_size + 2 * a * c.intermediate_size

    def _after_attention(self) -> float:
        """What a layer keeps of what comes after its attention: a norm's input, the feed-forward layers."""
        c, a = self._config, self._bytes
        return (4 + a) * c.hidden_size + 2 * a * c.intermediate_size

    def _logits(self) -> float:
        """The logits, as the last layer gives them and in fp32, what the loss keeps, and their gradient."""
        return (3 * 4 + self._bytes) * self._config.vocab_size

    def _utterance(self) -> float:
        """What an utterance keeps that goes through the encoder alone: the positional convolution's filter,
        which its norm makes anew, and SEW-D's projections of distances.
        """
        c, a = self._config, self._bytes
        if not self.model.one_by_one:
            return 0.0
        conv: Any = getattr(self.model.backbone.encoder, "pos_conv_embed", None)
        filters = a * _weights(conv.conv) if hasattr(conv, "conv") else 0.0
        if c.model_type != "sew-d" or self.checkpointing:
            return filters
        casts = 3 * a if self.half else a
        return filters + c.num_hidden_layers * (casts + 2 * a + 1) * self._distances * c.hidden_size

    @property
    def _distances(self) -> int:
        """Distances that SEW-D's attention tells apart."""
        c = self._config
        buckets = c.position_buckets if c.position_buckets > 0 else c.max_relative_positions
        return 2 * buckets

    def _squares(self) -> tuple[float, float]:
        """Bytes for each pair of frames of an utterance, (kept, working): of scores where no fused kernel
        takes attention; of the bias of WavLM's, of one layer at a time.
        """
        c, a = self._config, self._bytes
        heads, layers = c.num_attention_heads, c.num_hidden_layers
        if c.model_type == "sew-d":  # probabilities in fp32 and as the product takes them, a mask, two tables
            one, working = heads * (4 + a + 1) + 16.0, 3.0 * 4 * heads
        elif c.model_type == "wavlm" and self._packed and self.cuda:
            return 0.0, (8.0 if self.half else 12.0) * heads  # the bias, its gradient, and a product in fp32
        elif c.model_type == "wavlm" or c._attn_implementation not in ("sdpa", PACKED_ATTENTION["sdpa"]):
            one, working = 3.0 * a * heads, 0.0  # two of them, and what dropout keeps
        else:
            return 0.0, 0.0
        return (0.0, one + working) if self.checkpointing else (one * layers, working)

    # -- the front end

    def _front_end(self) -> tuple[float, float]:
        """The convolutions, whose layers have fewer frames from one to the next: (kept, passing)."""
        c, a = self._config, self._bytes
        strides = [math.prod(c.conv_stride[number + 1 :]) for number in range(len(c.conv_stride))]
        sizes = [frames * channels for frames, channels in zip(strides, c.conv_dim, strict=True)]
        by_layer = not self.model.info.normalises_over_time
        # before and after the activation; with a norm, its input and output in fp32, and what the next
        # convolution reads
        each = (10 if self.half else 12) if by_layer else 2 * a
        # torch's group norm keeps its input in fp32; that of packed batches is in the filter
        grouped = 0 if by_layer or self._packed else (6 if self.half else 4)
        if self.model.front_end.frozen:
            # without a gradient the activations of transformers' own go as the next are computed
            return 0.0, (each if self._packed else 10 if self.half else 8) * sizes[0]
        if self.checkpointing and (by_layer or not self._packed):
            # inputs; the first layer runs again at the very end
            return (4 if by_layer else a) * sum(sizes[:-1]), 16 * sizes[0]
        return each * sum(sizes) + grouped * sizes[0], 0.0


def _rate(config: Any, name: str) -> float:
    return float(getattr(config, name, 0.0) or 0.0)


def _weights(conv: nn.Conv1d) -> int:
    """The elements of a convolution's weight. The weight itself is computed anew from its norm at each look,
    and where it is cut across ranks they would have to gather it.
    """
    return conv.out_channels * (conv.in_channels // conv.groups) * conv.kernel_size[0]
