"""The masks that a network is trained with."""

from asr_exp.data.augment import Masks, SpanMasking
from asr_exp.model.model_info import ModelInfo


def build_masks(info: ModelInfo, seed: int) -> Masks | None:
    """How masks in time and feature are drawn, as the model's config says; None where it masks nothing."""
    c = info.config
    if not getattr(c, "apply_spec_augment", True) or not (c.mask_time_prob > 0 or c.mask_feature_prob > 0):
        return None
    return Masks(
        SpanMasking(c.mask_time_prob, c.mask_time_length, getattr(c, "mask_time_min_masks", 2)),
        SpanMasking(c.mask_feature_prob, c.mask_feature_length, getattr(c, "mask_feature_min_masks", 0)),
        c.hidden_size,
        info.frames,
        seed,
    )
