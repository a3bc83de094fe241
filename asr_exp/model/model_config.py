"""The transformers config of a model, with the run's settings in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from asr_exp.core.errors import UserError, nearest
from asr_exp.model.pretrained.source import BUNDLE, CheckpointSource, find_checkpoint
from asr_exp.model.pretrained.torchaudio_bundles import bundle_config


@dataclass(frozen=True)
class ModelSettings:
    """Which network a run has: what the model and augment sections of its config say.

    checkpoint: a hub id, a folder (of a run: its best checkpoint), `builtin:NAME` or `torchaudio:NAME`; None
    for an architecture with random weights. revision: of a hub id. architecture: a model type of
    transformers, where there is no checkpoint. config: architecture settings that differ from the
    checkpoint's. augment: masks, layerdrop and dropout; None for a value that stays as the checkpoint has it.
    keep_head: whether to use the checkpoint's own CTC head. attention: auto, eager or sdpa. device: the type
    of device that the network is for, cpu or cuda.
    """

    checkpoint: str | None = None
    revision: str | None = None
    architecture: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    augment: Mapping[str, Any] = field(default_factory=dict)
    keep_head: bool = False
    attention: str = "auto"
    device: str = "cpu"


def read_config(settings: ModelSettings) -> Any:
    """The transformers config of a model.

    Raises UserError for an unknown type or setting, and for an architecture that cannot be used.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    config = _original_config(settings)
    adapter_was_trained = getattr(config, "add_adapter", False) and settings.keep_head
    for name, value in {**settings.config, "ctc_loss_reduction": "mean"}.items():
        if not hasattr(config, name):
            raise UserError(
                f"model.config.{name} is not a setting of {config.model_type}.{nearest(name, vars(config))}"
            )
        try:
            setattr(config, name, value)
        # transformers checks the type of the value, and has exceptions of its own for a wrong one
        except Exception as why:
            raise UserError(
                f"model.config.{name}={value} is of the wrong kind:"
                f" {str(why.__cause__ or why).partition('. ')[0]}."
            ) from None
    _check_waveforms(settings.checkpoint or str(settings.architecture), config, adapter_was_trained)
    for name in vars(config):
        value = settings.augment.get("dropout" if name.endswith("dropout") else name)
        if value is not None:
            setattr(config, name, value)
    return config


def first_line(error: Exception) -> str:
    """The first line of a library's message, without its full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")


def _original_config(settings: ModelSettings) -> Any:
    """The config of the checkpoint, or of the architecture, before the run's settings."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING_NAMES as CTC

    checkpoint, architecture = settings.checkpoint, settings.architecture
    if checkpoint is None:
        if architecture is None or architecture not in CTC:
            known = f"{nearest(str(architecture), CTC)} Known: {', '.join(CTC)}."
            raise UserError(f"model.architecture={architecture} is not a CTC architecture.{known}")
        return transformers.AutoConfig.for_model(architecture)
    if checkpoint.startswith(BUNDLE):
        return bundle_config(checkpoint.removeprefix(BUNDLE), settings.keep_head)
    config = _checkpoint_config(find_checkpoint(checkpoint, settings.revision))
    if config.model_type not in CTC:
        raise UserError(
            f"{checkpoint} is a {config.model_type}, which has no CTC head; use one of {', '.join(CTC)}."
        )
    return config


def _check_waveforms(name: str, config: Any, needs_adapter: bool) -> None:
    """Raise UserError for an architecture that takes no waveforms, for one whose output is shortened by an
    adapter, and for a front end without a valid kernel or stride.

    needs_adapter: whether the checkpoint's head, which is kept, was trained on the adapter's output.
    """
    if needs_adapter:
        raise UserError(
            f"{name} has an adapter (add_adapter: true) that shortens its output, and a head trained on that,"
            " which cannot be used. Train a new head without the adapter: model.head=new"
            " +model.config.add_adapter=false."
        )
    if getattr(config, "add_adapter", False):
        raise UserError(
            f"{name} has an adapter (add_adapter: true) that shortens its output; add"
            " +model.config.add_adapter=false to leave it out."
        )
    if not hasattr(config, "conv_stride"):
        raise UserError(
            f"{name} ({config.model_type}) takes spectral features; give one that takes waveforms."
        )
    for key in ("conv_stride", "conv_kernel"):
        if min(getattr(config, key), default=0) < 1:
            raise UserError(
                f"model.config.{key}={list(getattr(config, key))} must be numbers of at least 1, one for each"
                " layer."
            )


def _checkpoint_config(source: CheckpointSource) -> Any:
    """The config of a checkpoint's files.

    Raises UserError where there is none, or none of a type that transformers knows, and for quantised
    weights.
    """
    import transformers

    content = source.json("config.json")
    if content is None:
        raise source.lacks("config.json")
    if not isinstance(content.get("model_type"), str):
        raise source.error(
            "its config.json has no model_type, so its architecture cannot be known; take the file of its hub"
            " page"
        )
    if content["model_type"] not in transformers.CONFIG_MAPPING:
        message = source.error(
            f"it is a {content['model_type']}, which transformers {transformers.__version__} does not know"
        )
        raise UserError(f"{message}{nearest(content['model_type'], transformers.CONFIG_MAPPING.keys())}")
    if content.get("quantization_config"):
        raise source.error(
            "its weights are quantised (quantization_config); give the checkpoint that they were made from"
        )
    if content.get("vocab_size", 0) is None:  # as pretraining leaves it
        del content["vocab_size"]
    kind = transformers.CONFIG_MAPPING[content["model_type"]]
    try:
        config = kind.from_dict(content)
    except Exception as why:  # transformers checks each value with exceptions of its own
        raise source.error(
            f"its config.json is not one of a {content['model_type']} ({first_line(why)})"
        ) from why
    # older configs have it, and transformers would obey it; trainer.gradient_checkpointing decides
    vars(config).pop("gradient_checkpointing", None)
    return config
