"""The network, built from the config."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from asr_exp.data.tokenizer import Tokenizer
from asr_exp.model.freezing import freeze
from asr_exp.model.loading import load_backbone
from asr_exp.model.model_config import ModelSettings
from asr_exp.model.recogniser import Recogniser
from asr_exp.runtime.distributed import Runtime, seed_everything


def model_settings(
    config: DictConfig, device: str = "cpu", checkpoint: Path | str | None = None
) -> ModelSettings:
    """What the model and augment sections say of the network.

    device: the type of device that it is for. checkpoint: of a fine-tuned network to use in place of the
    config's, with its own architecture and head.
    """
    m = config.model
    augment = {key: value for key, value in config.augment.items() if key not in ("name", "speed")}
    if checkpoint:
        return ModelSettings(
            str(checkpoint), m.revision, augment=augment, keep_head=True, attention=m.attention, device=device
        )
    return ModelSettings(
        m.checkpoint,
        m.revision,
        m.architecture,
        OmegaConf.to_container(m.config),  # type: ignore[arg-type]
        augment,
        m.head == "keep",
        m.attention,
        device,
    )


def build_recogniser(
    config: DictConfig, tokenizer: Tokenizer, runtime: Runtime, checkpoint: Path | str | None = None
) -> Recogniser:
    """The run's network on its device: the backbone with a head for the vocabulary, drawn from the seed; or
    the fine-tuned network of `checkpoint`.
    """
    settings = model_settings(config, runtime.device.type, checkpoint)
    seed_everything(config.seed)
    network, extractor = load_backbone(settings, len(tokenizer), tokenizer.blank)
    freeze(network, config.model.freeze_front_end, list(config.model.freeze))
    return Recogniser(network, extractor, config.model.padding).to(runtime.device)
