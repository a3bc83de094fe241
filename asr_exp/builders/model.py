"""The network, made from the config."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from asr_exp.data.tokenizer import Tokenizer
from asr_exp.model.loading import load_backbone
from asr_exp.model.recogniser import Recogniser
from asr_exp.runtime.distributed import Runtime, seed_everything


def model_arguments(config: DictConfig, device: str = "cpu") -> dict[str, Any]:
    """What `load_backbone` (and `read_config`) take from the model and augment sections."""
    m = config.model
    return {
        "checkpoint": m.checkpoint,
        "revision": m.revision,
        "architecture": m.architecture,
        "settings": OmegaConf.to_container(m.config),
        "augment": {k: v for k, v in config.augment.items() if k not in ("name", "speed")},
        "keep_head": m.head == "keep",
        "attention": m.attention,
        "device": device,
    }


def build_recogniser(
    config: DictConfig, tokenizer: Tokenizer, runtime: Runtime, checkpoint: Path | str | None = None
) -> Recogniser:
    """The run's backbone with a head for its vocabulary, drawn from the seed; or, from `checkpoint`, what a
    run has trained.
    """
    arguments = model_arguments(config, runtime.device.type)
    if checkpoint:
        arguments |= {"checkpoint": str(checkpoint), "architecture": None, "settings": {}, "keep_head": True}
    seed_everything(config.seed)
    model = Recogniser(
        *load_backbone(vocabulary=len(tokenizer), blank=tokenizer.blank, **arguments), config.model.padding
    )
    model.freeze(config.model.freeze_front_end, list(config.model.freeze))
    return model.to(runtime.device)
