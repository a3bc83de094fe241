"""A model as transformers' `from_pretrained` reads it."""

from pathlib import Path

import torch

from asr_exp.model.recogniser import Recogniser
from asr_exp.model.transformers_patches import original_layerdrop


def save_pretrained(model: Recogniser, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write config, feature extractor and weights to a folder.

    weights: by their names in the network, such as averaged ones; None for the model's own.
    """
    with original_layerdrop(model.network, model.layerdrop):
        model.network.save_pretrained(folder, state_dict=weights)
    model.extractor.save_pretrained(folder)
