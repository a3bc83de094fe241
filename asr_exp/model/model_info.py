"""What is known of a model without its weights."""

from typing import Any


class ModelInfo:
    """The config and the feature extractor of a model, both as transformers has them; no weights."""

    def __init__(self, config: Any, extractor: Any):
        self.config = config
        self.extractor = extractor

    def frames(self, samples: int) -> int:
        """The number of encoder frames for a clip of `samples` samples.

        It is 0 for a clip that is shorter than the receptive field of a frame, or than the frames that SEW
        squeezes into one.
        """
        for kernel, stride in zip(self.config.conv_kernel, self.config.conv_stride, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples if samples >= getattr(self.config, "squeeze_factor", 1) else 0

    @property
    def normalises_over_time(self) -> bool:
        """Whether the first convolution is followed by a group norm, which sees a whole utterance at once."""
        return getattr(self.config, "feat_extract_norm", "layer") == "group"
