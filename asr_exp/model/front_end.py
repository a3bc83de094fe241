"""The convolutional front end in a forward pass: packed or padded, and with a cache where it is frozen.

`conv_frontend.py` holds the arithmetic; this file chooses which of it a pass needs.
"""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from asr_exp.model.conv_frontend import (
    FRAMES_AT_ONCE,
    ConvWeights,
    conv_weights,
    extract_features,
    frame_positions,
)
from asr_exp.model.feature_cache import FeatureCache, FeatureTable, cache_name, open_cache
from asr_exp.model.model_info import ModelInfo
from asr_exp.model.pass_context import PassContext, current_layout, current_pass


class FrontEnd:
    """Computes what the backbone's `feature_extractor` would.

    Args:
        module: transformers' feature extractor: its convolutions in `conv_layers`.
        info: of the model.
        packed: whether the utterances of a batch are laid end to end.

    Attributes:
        cache: of the features of training utterances; None where none is kept.
    """

    def __init__(self, module: Any, info: ModelInfo, packed: bool):
        self.module = module
        self.info = info
        self.packed = packed
        self.cache: FeatureCache | None = None
        self._transformers_forward = module.forward
        self._weights: list[ConvWeights] = []

    @property
    def frozen(self) -> bool:
        return not any(p.requires_grad for p in self.module.parameters())

    def cache_weights(self, enabled: bool) -> None:
        """Keep the weights as the matrix products need them, for as long as no weight changes."""
        self._weights = conv_weights(self.module.conv_layers) if enabled else []

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """Features of normalised audio, (batch, samples) -> (batch, channels, frames); of a packed batch (1,
        channels, all frames + tail).
        """
        layers = self.module.conv_layers
        context = current_pass()
        with torch.no_grad() if self.frozen else contextlib.nullcontext():
            if self.packed:
                # One utterance at a time where no gradient is needed: its activations stay in the CPU's
                # cache.
                if not torch.is_grad_enabled() and audio.device.type == "cpu":
                    return self._one_by_one(audio, context)
                features = extract_features(
                    layers, audio, context.batch.lengths, current_layout().positions, context.statistics
                )
                return features.T[None]
            if context.statistics and self.info.normalises_over_time:
                lengths = [audio.shape[1]]
                positions = frame_positions(layers, lengths, [self.info.frames(lengths[0])]).to(audio.device)
                return extract_features(layers, audio, lengths, positions, context.statistics).T[None]
            return self._transformers_forward(audio)

    def _one_by_one(self, audio: torch.Tensor, context: PassContext) -> torch.Tensor:
        weights = self._weights or conv_weights(self.module.conv_layers)
        rows = [self._features_of(row, audio, context, weights) for row in range(len(audio))]
        return F.pad(torch.cat(rows), (0, 0, 0, current_layout().tail)).T[None]

    def _features_of(
        self, row: int, audio: torch.Tensor, context: PassContext, weights: list[ConvWeights]
    ) -> torch.Tensor:
        """Features of one utterance, (frames, channels): from the cache, or computed and cached."""
        batch = context.batch
        samples = batch.lengths[row]
        if batch.features and self.cache:
            # A batch is made some steps ahead: what was not cached then may be by now.
            cached = batch.features[row]
            if cached is None:
                cached = self.cache.read(int(batch.indices[row]), batch.audio[row, :samples])
            if cached is not None:
                return cached
        features = extract_features(
            self.module.conv_layers,
            audio[row : row + 1],
            [samples],
            torch.arange(self.info.frames(samples)),
            context.statistics,
            weights,
        )
        if self.cache and self.module.training:
            self.cache.write(int(batch.indices[row]), batch.audio[row, :samples], features)
        return features

    def open_cache(
        self, folder: Path, samples: np.ndarray, precision: str, budget: float, processes: int = 1
    ) -> None:
        """Cache the features of a training split from here on; nothing where they would change.

        Args:
            folder: where the caches of all front ends are.
            samples: (utterances,) the number of samples of each utterance.
            precision: of the run, fp32, bf16 or fp16.
            budget: bytes of all caches together.
            processes: that fill this cache side by side.
        """
        if not self.packed or not self.frozen:
            return
        c = self.info.config
        settings = [
            c.conv_stride,
            c.feat_extract_norm,
            c.feat_extract_activation,
            c.layer_norm_eps,
            self.info.extractor.do_normalize,
            precision,
            FRAMES_AT_ONCE,
        ]
        table = FeatureTable(np.array([self.info.frames(int(n)) for n in samples]), c.conv_dim[-1])
        name = cache_name(self.module.state_dict(), str(settings), samples)
        self.cache = open_cache(folder, name, table, budget, processes)
