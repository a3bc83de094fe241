"""How much audio a forward pass has where nothing is trained."""

import torch
from omegaconf import DictConfig

from asr_exp.runs.folder import AUTO_SECONDS

# Bytes for a second of audio: what the first convolutions of a front end pass on, in fp32, and what attention
# takes of utterances of half a minute where it keeps its scores.
SCORING_BYTES = 40e6
SHARE = 0.5  # of a GPU's memory; training's weights, gradients and moments may be there too
MOST_SECONDS = 1000.0  # more is no faster


def scoring_seconds(config: DictConfig, device: torch.device) -> float:
    """The size of forward passes of scoring: trainer.device_seconds or, where that is auto, by the memory
    that the GPU has (used or not, so that it is the same each time, and emissions on the disk are found
    again).
    """
    size = config.trainer.device_seconds
    if size != "auto":
        return float(size)
    if device.type != "cuda":
        return AUTO_SECONDS
    total = torch.cuda.get_device_properties(device).total_memory
    return float(min(MOST_SECONDS, max(AUTO_SECONDS, SHARE * total / SCORING_BYTES // 100 * 100)))
