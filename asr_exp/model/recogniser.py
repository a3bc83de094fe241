"""A speech backbone with a CTC head, and its forward pass, in which no utterance depends on another."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from asr_exp.data.audio import Samples
from asr_exp.data.batch import Batch
from asr_exp.model.conv_frontend import SignalStatistics, frame_positions
from asr_exp.model.front_end import FrontEnd
from asr_exp.model.layout import Layout
from asr_exp.model.model_info import ModelInfo
from asr_exp.model.packed_encoder import PositionalConv, can_pack
from asr_exp.model.pass_context import PassContext, running
from asr_exp.model.transformers_patches import patch


@dataclass(frozen=True)
class Emissions:
    """The output of the model for a batch.

    logits: (batch, frames, vocabulary), fp32. frames: the number of valid frames of each row.
    """

    logits: torch.Tensor
    frames: list[int]


class Recogniser(nn.Module):
    """A transformers CTC network with the conventions of its feature extractor.

    Args:
        network: transformers' network, such as Wav2Vec2ForCTC.
        extractor: transformers' feature extractor.
        padding: `exact` gives each utterance the output that it has alone. The batch is fed without padding:
            packed, its utterances laid end to end, or one utterance at a time where the family cannot be
            packed (SEW pools across the end of an utterance). `hf_compat` pads the batch as transformers'
            feature extractor does, so that backbones with a group norm see the padding. `transformers` pads
            likewise and replaces nothing in the network, for comparison: it draws layerdrop and masks of
            features itself, for each forward pass.
    """

    def __init__(self, network: Any, extractor: Any, padding: str = "exact"):
        super().__init__()
        self.network = network
        self.extractor = extractor
        self.padding = padding
        self.info = ModelInfo(network.config, extractor)
        self.backbone = getattr(network, network.base_model_prefix)
        self.layerdrop = float(getattr(network.config, "layerdrop", 0.0) or 0.0)
        self.dropped_layers: frozenset[int] = frozenset()
        packed = padding == "exact" and can_pack(network.config)
        self.one_by_one = padding == "exact" and not packed
        self.front_end = FrontEnd(self.backbone.feature_extractor, self.info, packed)
        self._positional_conv = (
            PositionalConv(self.backbone.encoder.pos_conv_embed, network.config.num_conv_pos_embeddings)
            if packed
            else None
        )
        if padding != "transformers":
            patch(network, self.front_end, self._positional_conv)

    @contextlib.contextmanager
    def inference_cache(self) -> Iterator[None]:
        """While it lasts no gradient is needed and no weight changes: on a CPU, what the forward pass
        computes from the weights alone is computed once.
        """
        enabled = next(self.network.parameters()).device.type == "cpu"
        if self._positional_conv and enabled:
            self.front_end.cache_weights(True)
            self._positional_conv.cache_filters(True)
        try:
            yield
        finally:
            if self._positional_conv:
                self.front_end.cache_weights(False)
                self._positional_conv.cache_filters(False)

    # -- layerdrop (Fan et al. 2020)

    def drop_layers(self, seed: int, step: int) -> None:
        """Draw the encoder layers that a training step skips: the same on every rank and in every forward
        pass of the step.
        """
        if self.layerdrop > 0 and self.padding != "transformers":
            layers = len(self.backbone.encoder.layers)
            drawn = np.random.default_rng([seed, 3, step]).random(layers) < self.layerdrop
            # WavLM's first layer computes the position bias of all layers
            first = 1 if self.network.config.model_type == "wavlm" else 0
            self.dropped_layers = frozenset(i for i in range(first, layers) if drawn[i])

    def dropped_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the layers that this step skips."""
        for number in self.dropped_layers:
            yield from self.backbone.encoder.layers[number].parameters()

    def blocks(self) -> Iterable[nn.Module]:
        """The encoder's layers: the list of modules with the most parameters."""
        lists = [m for m in self.backbone.encoder.modules() if isinstance(m, nn.ModuleList)]
        return max(lists, key=lambda m: sum(p.numel() for p in m.parameters()))

    # -- forward

    def frames(self, samples: int) -> int:
        """The number of encoder frames for a clip of so many samples; see `ModelInfo`."""
        return self.info.frames(samples)

    def signal_statistics(self, samples: Samples) -> SignalStatistics:
        """The statistics of a recording by which its pieces are normalised as the whole is."""
        config = self.network.config
        return SignalStatistics.of(samples, config.conv_kernel[0], config.conv_stride[0])

    def forward(self, batch: Batch, recording: SignalStatistics | None = None) -> Emissions:
        """Emissions of a batch of int16 audio, (batch, samples). Masks and layerdrop act in training mode
        only.

        recording: the statistics of a recording that all rows are pieces of; None where each row is an
        utterance.
        """
        lengths, device = batch.lengths, batch.audio.device
        ends = torch.tensor(lengths, pin_memory=device.type == "cuda").to(device, non_blocking=True)
        valid = torch.arange(batch.audio.shape[1], device=device) < ends[:, None]
        audio = self._normalise(batch.audio, valid, recording)
        if recording and self.extractor.do_normalize:
            recording = recording.normalised(self._deviation(recording.variance))
        context = PassContext(batch, recording)
        time_mask = None
        if self.training:
            time_mask = batch.time_mask
            context = replace(context, feature_mask=batch.feature_mask, dropped_layers=self.dropped_layers)
        frames = [self.frames(n) for n in lengths]
        if self._positional_conv:
            return Emissions(self._forward_packed(audio, context, time_mask, frames), frames)
        if self.one_by_one:
            return Emissions(self._forward_one_by_one(audio, context, time_mask, frames), frames)
        sees_mask = self.extractor.return_attention_mask
        hidden = self._encode(audio, context, time_mask, valid.long() if sees_mask else None)
        return Emissions(self._classify(hidden), frames if sees_mask else [hidden.shape[1]] * len(lengths))

    def _forward_packed(
        self, audio: torch.Tensor, context: PassContext, time_mask: torch.Tensor | None, frames: list[int]
    ) -> torch.Tensor:
        """Logits, (batch, frames, vocabulary), of a batch that goes through the network as one long
        utterance.
        """
        assert self._positional_conv
        layers, lengths = self.backbone.feature_extractor.conv_layers, context.batch.lengths
        positions = frame_positions(layers, lengths, frames)
        layout = Layout(frames, self._positional_conv.gap, positions, audio.device)
        time_mask = None if time_mask is None else layout.pack(time_mask)[None]
        if (feature_mask := context.feature_mask) is not None:
            feature_mask = feature_mask.index_select(0, layout.row)[None]
        context = replace(context, layout=layout, feature_mask=feature_mask)
        return layout.unpack(self._classify(self._encode(audio, context, time_mask))[0])

    def _forward_one_by_one(
        self, audio: torch.Tensor, context: PassContext, time_mask: torch.Tensor | None, frames: list[int]
    ) -> torch.Tensor:
        """Logits, (batch, frames, vocabulary), of utterances that go through the encoder each alone."""
        rows = []
        for i, samples in enumerate(context.batch.lengths):
            mask = None if context.feature_mask is None else context.feature_mask[i : i + 1]
            marks = None if time_mask is None else time_mask[i : i + 1, : frames[i]]
            rows.append(
                self._encode(audio[i : i + 1, :samples], replace(context, feature_mask=mask), marks)[0]
            )
        return self._classify(nn.utils.rnn.pad_sequence(rows, batch_first=True))

    def _encode(
        self,
        audio: torch.Tensor,
        context: PassContext,
        time_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The backbone's output, (rows, frames, channels), for normalised audio, (rows, samples)."""
        if self.padding == "transformers" and context.feature_mask is not None:
            # it draws masks of features from numpy's own generator, which no seed of a step reaches
            np.random.seed(int(torch.randint(2**31, ())))
        with running(context):
            return self.backbone(audio, attention_mask=attention_mask, mask_time_indices=time_mask)[0]

    def _classify(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.network.lm_head(self.network.dropout(hidden)).float()

    def _normalise(
        self, audio: torch.Tensor, valid: torch.Tensor, recording: SignalStatistics | None
    ) -> torch.Tensor:
        """int16 to float, full scale at 1; to zero mean and unit variance over each utterance, or over its
        recording, where the checkpoint's feature extractor does so.
        """
        x = audio.float() / 32768.0
        if not self.extractor.do_normalize:
            return x
        if recording:
            return (x - recording.mean) * valid / self._deviation(recording.variance)
        count = valid.sum(1, keepdim=True)
        mean = x.sum(1, keepdim=True) / count  # padding is zero
        centred = (x - mean) * valid
        variance = centred.square().sum(1, keepdim=True) / count
        return centred / self._deviation(variance)

    def _deviation(self, variance: Any) -> Any:
        # transformers adds 1e-7, torchaudio 1e-5
        return (variance + getattr(self.extractor, "variance_epsilon", 1e-7)) ** 0.5
