"""A speech backbone with a CTC head: freezing, and a forward pass in which no utterance depends on another.

What transformers leaves to the batch is taken into our own hands: padding, masks and layerdrop.
"""

import contextlib
import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from asr_exp.core.errors import UserError, nearest
from asr_exp.data.audio import Samples
from asr_exp.data.augment import Masks, SpanMasking
from asr_exp.data.batch import Batch
from asr_exp.model.conv_frontend import (
    PIECE,
    ConvWeights,
    SignalStatistics,
    conv_weights,
    extract_features,
    frame_positions,
)
from asr_exp.model.dropout import speed_up_dropout
from asr_exp.model.feature_cache import FeatureCache, open_cache
from asr_exp.model.packed_encoder import Layout, PackedEncoder, can_pack
from asr_exp.runtime.threads import PerThread


@dataclass(frozen=True)
class Emissions:
    """What the model says of a batch. logits: (batch, frames, vocabulary), fp32; frames: valid frames of each
    row.
    """

    logits: torch.Tensor
    frames: list[int]


class ModelInfo:
    """What is known of a recogniser without its weights. config: transformers' own; extractor: its feature
    extractor.
    """

    def __init__(self, config: Any, extractor: Any):
        self.config, self.extractor = config, extractor

    def frames(self, samples: int) -> int:
        """Frames the encoder makes of a clip of so many samples (0 for one too short: less than a receptive
        field, or a squeeze).
        """
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples if samples >= getattr(self.config, "squeeze_factor", 1) else 0


class Recogniser(nn.Module):
    """A transformers CTC network with its feature extractor's conventions.

    padding: `exact` gives each utterance the output it has alone: the batch is fed without padding, laid end
    to end, or one utterance at a time where the family cannot be fed so (SEW pools across an utterance's
    end). `hf_compat` pads the batch the way transformers' feature extractor does, so that group-norm
    backbones see the padding.
    """

    cache: FeatureCache | None = None  # of the training utterances' features
    # Of the pass in hand: its batch where it is packed, the moments of a recording that it is pieces of, its
    # masks in time and feature.
    _batch = PerThread()
    _whole = PerThread()
    _masks = PerThread()

    def __init__(self, network: Any, extractor: Any, padding: str = "exact"):
        super().__init__()
        self.network = network
        self.extractor = extractor
        self.padding = padding
        self.outline = ModelInfo(network.config, extractor)
        self.backbone = getattr(network, network.base_model_prefix)
        self.layerdrop = float(getattr(network.config, "layerdrop", 0.0) or 0.0)
        packed = padding == "exact" and can_pack(network.config)
        self.one_by_one = padding == "exact" and not packed  # utterances go through the encoder each alone
        self._dropped: set[int] = set()
        self._whole = None
        self._taps: list[ConvWeights] = []  # see `inference_cache`
        self._masks = (None, None)
        self._packed = PackedEncoder(self.backbone) if packed else None
        self._take_over()

    # -- what transformers would decide per batch
    # -----------------------------------------------------------------------

    def _take_over(self) -> None:
        """Replace the backbone's own masking, layerdrop, front end, and dropout on a CPU, on this instance
        only.

        No module is wrapped, so the names of the weights stay those of transformers.
        """
        self.backbone._mask_hidden_states = self._mask
        self._front_end = self.backbone.feature_extractor.forward
        self.backbone.feature_extractor.forward = self._features
        speed_up_dropout(self.network)
        layers = getattr(self.backbone.encoder, "layers", [])
        self.network.config.layerdrop = 0.0
        for number, layer in enumerate(layers):
            layer.forward = self._droppable(layer.forward, number)

    def _droppable(self, forward: Any, number: int) -> Any:
        with_bias = self.network.config.model_type == "wavlm"  # its layers hand the position bias on

        def forward_or_skip(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.training and number in self._dropped:
                return (hidden_states, kwargs.get("position_bias")) if with_bias else hidden_states
            return forward(hidden_states, *args, **kwargs)

        return forward_or_skip

    @contextlib.contextmanager
    def inference_cache(self) -> Iterator[None]:
        """While it lasts no gradient is wanted and the weights stay as they are: on a CPU, what follows from
        them alone is made once.
        """
        if self._packed and next(self.network.parameters()).device.type == "cpu":
            self._taps = conv_weights(self.backbone.feature_extractor.conv_layers)
            self._packed.cache_filters(True)
        try:
            yield
        finally:
            self._taps = []
            if self._packed:
                self._packed.cache_filters(False)

    def drop_layers(self, seed: int, step: int) -> None:
        """Draw the encoder layers a training step skips: the same on every rank and in every forward pass of
        the step.
        """
        if self.layerdrop > 0:
            layers = len(self.backbone.encoder.layers)
            drawn = np.random.default_rng([seed, 3, step]).random(layers) < self.layerdrop
            # WavLM's first layer makes the position bias
            first = 1 if self.network.config.model_type == "wavlm" else 0
            self._dropped = {i for i in range(first, layers) if drawn[i]}

    def dropped_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the layers that this step skips."""
        for number in self._dropped:
            yield from self.backbone.encoder.layers[number].parameters()

    def _mask(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        time, feature = self._masks
        if time is not None and hasattr(self.backbone, "masked_spec_embed"):
            fill = self.backbone.masked_spec_embed.to(hidden_states.dtype)
            time = F.pad(time, (0, hidden_states.shape[1] - time.shape[1]))
            hidden_states = torch.where(time[:, :, None], fill, hidden_states)
        if feature is not None:
            feature = feature if self._packed else feature[:, None, :]
            hidden_states = hidden_states.masked_fill(feature, 0.0)
        return hidden_states.clone()  # encoders zero the padding in place

    def _features(self, audio: torch.Tensor) -> torch.Tensor:
        """The convolutional front end, (batch, samples) -> (batch, channels, frames); (1, channels, all
        frames) where packed.
        """
        layers = self.backbone.feature_extractor.conv_layers
        with torch.no_grad() if self.front_end_frozen else contextlib.nullcontext():
            # Where no gradient is wanted, one at a time and in pieces: what is at hand stays in the CPU's
            # cache.
            if self._packed and not torch.is_grad_enabled() and audio.device.type == "cpu":
                taps = self._taps or conv_weights(layers)
                made = torch.cat(
                    [self._features_of(self._batch, row, audio, taps) for row in range(len(audio))]
                )
                return F.pad(made, (0, 0, 0, self._packed.layout.tail)).T[None]
            if self._packed:
                return extract_features(
                    layers, audio, self._batch.lengths, self._packed.layout.positions, self._whole
                ).T[None]
            if self._whole and getattr(self.network.config, "feat_extract_norm", "layer") == "group":
                lengths = [audio.shape[1]]
                positions = frame_positions(layers, lengths, [self.frames(lengths[0])]).to(audio.device)
                return extract_features(layers, audio, lengths, positions, self._whole).T[None]
            return self._front_end(audio)

    def _features_of(
        self, batch: Batch, row: int, audio: torch.Tensor, taps: Sequence[ConvWeights]
    ) -> torch.Tensor:
        """Features of one utterance, (frames, channels): those that are known, or else made of it alone, and
        kept.
        """
        if batch.features and (known := batch.features[row]) is not None:
            return known
        layers, samples = self.backbone.feature_extractor.conv_layers, batch.lengths[row]
        positions = torch.arange(self.frames(samples))
        made = extract_features(layers, audio[row : row + 1], [samples], positions, self._whole, taps)
        if self.cache and self.training:
            self.cache.write(int(batch.indices[row]), batch.audio[row, :samples], made)
        return made

    # -- forward
    # --------------------------------------------------------------------------------------------------------

    def frames(self, samples: int) -> int:
        """Frames the encoder makes of a clip of so many samples; see `ModelInfo`."""
        return self.outline.frames(samples)

    def moments(self, samples: Samples) -> SignalStatistics:
        """Of a recording what its pieces need to be heard as parts of it."""
        config = self.network.config
        return SignalStatistics.of(samples, config.conv_kernel[0], config.conv_stride[0])

    def forward(self, batch: Batch, whole: SignalStatistics | None = None) -> Emissions:
        """Emissions of a batch (int16 audio as stored). Masks and layerdrop act in training mode only.

        whole: of the recording that all rows are pieces of, where they are: they are normalised as it is.
        """
        lengths, device = batch.lengths, batch.audio.device
        valid = torch.arange(batch.audio.shape[1], device=device)[None, :] < torch.tensor(lengths)[
            :, None
        ].to(device, non_blocking=True)
        audio = self._normalise(batch.audio, valid, whole)
        self._whole = (
            whole.normalised(self._deviation(whole.variance))
            if whole and self.extractor.do_normalize
            else whole
        )
        masks = (batch.time_mask, batch.feature_mask) if self.training else (None, None)
        frames = [self.frames(n) for n in lengths]
        if self._packed:
            return Emissions(self._forward_packed(self._packed, batch, audio, frames, masks), frames)
        if self.padding == "hf_compat":
            sees_mask = self.extractor.return_attention_mask
            hidden = self._encode(audio, masks, valid.long() if sees_mask else None)
            frames = frames if sees_mask else [hidden.shape[1]] * len(lengths)
        else:
            rows = [
                self._encode(audio[i : i + 1, :n], _row(masks, i, frames[i]))[0]
                for i, n in enumerate(lengths)
            ]
            hidden = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return Emissions(self._classify(hidden), frames)

    def _forward_packed(
        self, packed: PackedEncoder, batch: Batch, audio: torch.Tensor, frames: list[int], masks: tuple
    ) -> torch.Tensor:
        """Logits, (batch, frames, vocabulary), of a batch that goes through the network as one long
        utterance.
        """
        positions = frame_positions(self.backbone.feature_extractor.conv_layers, batch.lengths, frames)
        packed.layout = layout = Layout(frames, packed.gap, positions, audio.device)
        self._batch = batch
        time, feature = masks
        time = None if time is None else layout.pack(time)[None]
        feature = None if feature is None else feature.index_select(0, layout.row)[None]
        return layout.unpack(self._classify(self._encode(audio, (time, feature)))[0])

    def _classify(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.network.lm_head(self.network.dropout(hidden)).float()

    def _encode(
        self, audio: torch.Tensor, masks: tuple, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        self._masks = masks
        return self.backbone(audio, attention_mask=attention_mask)[0]

    def _normalise(
        self, audio: torch.Tensor, valid: torch.Tensor, whole: SignalStatistics | None
    ) -> torch.Tensor:
        """int16 to float; to zero mean and unit variance per utterance where the checkpoint's feature
        extractor does so.
        """
        x = audio.float() / 32768.0
        if not self.extractor.do_normalize:
            return x
        if whole:
            return (x - whole.mean) * valid / self._deviation(whole.variance)
        count = valid.sum(1, keepdim=True)
        mean = x.sum(1, keepdim=True) / count  # padding is zero
        centred = (x - mean) * valid
        variance = centred.square().sum(1, keepdim=True) / count
        return centred / self._deviation(variance)

    def _deviation(self, variance: Any) -> Any:
        # transformers adds 1e-7, torchaudio 1e-5
        return (variance + getattr(self.extractor, "variance_epsilon", 1e-7)) ** 0.5

    # -- what is trained, what is saved
    # -----------------------------------------------------------------------------------

    def freeze(self, front_end: bool, patterns: Sequence[str]) -> None:
        """Keep the front end and the parameters whose names match as they are. Raises UserError for a pattern
        without a match.
        """
        if front_end:
            self.network.freeze_feature_encoder()
        names = dict(self.network.named_parameters())
        for pattern in patterns:
            matched = fnmatch.filter(names, pattern)
            if not matched:
                raise UserError(
                    f"model.freeze: no parameter is named like {pattern!r}.{nearest(pattern, names)}"
                )
            for name in matched:
                names[name].requires_grad_(False)

    @property
    def front_end_frozen(self) -> bool:
        return not any(p.requires_grad for p in self.backbone.feature_extractor.parameters())

    def keep_features(
        self, folder: Path, samples: np.ndarray, precision: str, budget: float, processes: int = 1
    ) -> None:
        """Keep what a frozen front end makes of utterances of so many samples each, in a cache of so many
        bytes; if it can be.
        """
        if self._packed is None or not self.front_end_frozen:
            return
        c, front_end = self.network.config, self.backbone.feature_extractor
        made_by = [
            c.conv_stride,
            c.feat_extract_norm,
            c.feat_extract_activation,
            c.layer_norm_eps,
            self.extractor.do_normalize,
            precision,
            PIECE,
        ]
        frames = np.array([self.frames(int(n)) for n in samples])
        self.cache = open_cache(
            folder, front_end.state_dict(), str(made_by), samples, frames, c.conv_dim[-1], budget, processes
        )

    def blocks(self) -> Iterable[nn.Module]:
        """The encoder's layers: the list of modules with the most parameters."""
        lists = [m for m in self.backbone.encoder.modules() if isinstance(m, nn.ModuleList)]
        return max(lists, key=lambda m: sum(p.numel() for p in m.parameters()))

    def save(self, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
        """Write weights (its own, or those given), config and feature extractor as transformers'
        `from_pretrained` reads them.
        """
        # ours while we train; what loads the folder should find the run's
        self.network.config.layerdrop = self.layerdrop
        self.network.save_pretrained(folder, state_dict=weights)
        self.network.config.layerdrop = 0.0
        self.extractor.save_pretrained(folder)

    def masks(self, seed: int) -> Masks | None:
        """How masks are drawn for this network in training, as its config says; None where it masks
        nothing.
        """
        c = self.network.config
        masking = getattr(c, "apply_spec_augment", True) and (c.mask_time_prob > 0 or c.mask_feature_prob > 0)
        if not masking:
            return None
        return Masks(
            SpanMasking(c.mask_time_prob, c.mask_time_length, getattr(c, "mask_time_min_masks", 2)),
            SpanMasking(c.mask_feature_prob, c.mask_feature_length, getattr(c, "mask_feature_min_masks", 0)),
            c.hidden_size,
            self.frames,
            seed,
        )


def _row(masks: tuple[torch.Tensor | None, torch.Tensor | None], row: int, frames: int) -> tuple:
    time, feature = masks
    return (
        None if time is None else time[row : row + 1, :frames],
        None if feature is None else feature[row : row + 1],
    )
