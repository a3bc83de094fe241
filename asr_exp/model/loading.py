"""Backbones out of transformers' `Auto*` classes: any CTC architecture that takes waveforms, by hub id,
folder or type.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from asr_exp.core.errors import UserError, nearest
from asr_exp.core.libraries import import_failure
from asr_exp.model.pretrained.source import BUNDLE, CheckpointSource, find_checkpoint
from asr_exp.model.pretrained.torchaudio_bundles import bundle_config, bundle_extractor, load_bundle
from asr_exp.model.pretrained.weights import HEAD, draw_mask_embedding, head_size, read_weights


def load_backbone(
    checkpoint: str | None,
    vocabulary: int,
    blank: int,
    *,
    revision: str | None = None,
    architecture: str | None = None,
    settings: dict[str, Any] | None = None,
    augment: dict[str, Any] | None = None,
    keep_head: bool = False,
    attention: str = "auto",
    device: str = "cpu",
) -> tuple[Any, Any]:
    """(CTC network, feature extractor) of a pretrained checkpoint, or of an architecture with random weights;
    fp32.

    checkpoint: a hub id, a folder (a run's: its best checkpoint), `builtin:NAME`, or `torchaudio:NAME`;
    settings: architecture settings that differ; augment: masks, layerdrop, dropout (None: as the checkpoint
    says). A new head of `vocabulary` outputs is drawn from torch's generator, so seed it first. Raises
    UserError for what cannot be loaded.
    """
    import transformers

    if not keep_head:
        settings = {**(settings or {}), "vocab_size": vocabulary, "pad_token_id": blank}
    config = read_config(checkpoint, revision, architecture, settings, augment, keep_head)
    attention = _attention(attention, config, device)
    if checkpoint is None:
        return _from_config(config, architecture, attention), default_extractor(config)
    if checkpoint.startswith(BUNDLE):
        return load_bundle(checkpoint.removeprefix(BUNDLE), config, keep_head, attention)
    source = find_checkpoint(checkpoint, revision)
    weights = read_weights(source)
    if not keep_head:  # nor one that happens to be of the same size
        weights = {name: weight for name, weight in weights.items() if not name.startswith("lm_head.")}
    elif HEAD in weights:
        config.vocab_size = len(weights[HEAD])
    kind: Any = transformers.MODEL_FOR_CTC_MAPPING[type(config)]
    try:
        network, info = kind.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            attn_implementation=attention,
        )
    except (ValueError, RuntimeError, TypeError, ZeroDivisionError, LookupError) as why:
        raise _blame(
            why, source.error(f"its config.json does not make a {config.model_type} ({_first_line(why)})")
        ) from why
    _check_loaded(
        checkpoint,
        network,
        {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])},
        keep_head,
    )
    draw_mask_embedding(network, info["missing_keys"])
    sums = ((name, one.detach().sum(dtype=torch.float64)) for name, one in network.named_parameters())
    if broken := next((name for name, total in sums if not torch.isfinite(total)), None):
        raise source.error(
            f"its weights hold what is no number ({broken}), as a training that diverged leaves them; give"
            " another"
        )
    return network, _extractor(source, config)


def check_checkpoint(checkpoint: str | None, revision: str | None = None, **arguments: Any) -> None:
    """Raise UserError for a network that cannot be had, as far as can be known before its weights are read
    whole.

    arguments: those of `load_backbone`. The weights of a hub id are downloaded.
    """
    read_config(checkpoint, revision, **arguments)
    if checkpoint and not checkpoint.startswith(BUNDLE):
        head_size(find_checkpoint(checkpoint, revision))


def read_outline(checkpoint: Path | str, revision: str | None = None) -> tuple[Any, Any]:
    """(config, feature extractor) of a fine-tuned checkpoint, without its weights. Raises UserError for what
    cannot be read.
    """
    name = str(checkpoint)
    config = read_config(name, revision, keep_head=True)
    if name.startswith(BUNDLE):
        return config, bundle_extractor(name.removeprefix(BUNDLE), config)
    return config, _extractor(find_checkpoint(name, revision), config)


def read_config(
    checkpoint: str | None,
    revision: str | None = None,
    architecture: str | None = None,
    settings: dict[str, Any] | None = None,
    augment: dict[str, Any] | None = None,
    keep_head: bool = False,
    **_: Any,
) -> Any:
    """The transformers config with the run's settings. Raises UserError for an unknown type or setting, or no
    network.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING_NAMES as CTC

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if checkpoint is None:
        if architecture is None or architecture not in CTC:
            known = f"{nearest(str(architecture), CTC)} Known: {', '.join(CTC)}."
            raise UserError(f"model.architecture={architecture} is not a CTC architecture.{known}")
        config = transformers.AutoConfig.for_model(architecture)
    elif checkpoint.startswith(BUNDLE):
        config = bundle_config(checkpoint.removeprefix(BUNDLE), keep_head)
    else:
        config = _config_of(find_checkpoint(checkpoint, revision))
    if config.model_type not in CTC:
        raise UserError(
            f"{checkpoint or architecture} is a {config.model_type}, which has no CTC head; use one of"
            f" {', '.join(CTC)}."
        )
    shortens = getattr(config, "add_adapter", False)
    for name, value in {**(settings or {}), "ctc_loss_reduction": "mean"}.items():
        if not hasattr(config, name):
            raise UserError(
                f"model.config.{name} is not a setting of {config.model_type}.{nearest(name, vars(config))}"
            )
        try:
            setattr(config, name, value)
        # transformers knows of what type it is, and has exceptions of its own for that
        except Exception as why:
            raise UserError(
                f"model.config.{name}={value} is of the wrong kind:"
                f" {str(why.__cause__ or why).partition('. ')[0]}."
            ) from None
    _check_waveforms(checkpoint or str(architecture), config, shortens and keep_head)
    for name in vars(config):
        asked = (augment or {}).get("dropout" if name.endswith("dropout") else name)
        if asked is not None:
            setattr(config, name, asked)
    return config


def _check_waveforms(name: str, config: Any, needs_adapter: bool) -> None:
    """Raise UserError for an architecture that takes no waveforms, that shortens what it makes of them, or
    whose front end cannot be.
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


def _config_of(source: CheckpointSource) -> Any:
    """The config of a checkpoint. Raises UserError where it has none, or none of a type that transformers
    knows.
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
        told = source.error(
            f"it is a {content['model_type']}, which transformers {transformers.__version__} does not know"
        )
        raise UserError(f"{told}{nearest(content['model_type'], transformers.CONFIG_MAPPING.keys())}")
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
            f"its config.json is not one of a {content['model_type']} ({_first_line(why)})"
        ) from why
    # of older configs: transformers would obey it, and trainer.* is what says it
    vars(config).pop("gradient_checkpointing", None)
    return config


def _from_config(config: Any, architecture: str | None, attention: str) -> Any:
    import transformers

    try:
        return transformers.AutoModelForCTC.from_config(config, attn_implementation=attention)
    except (ValueError, RuntimeError, TypeError, ZeroDivisionError, LookupError) as why:
        told = (
            f"model.config does not make a {architecture}: {_first_line(why)}. Its numbers must fit each"
            " other."
        )
        raise _blame(why, UserError(told)) from why


def _blame(why: Exception, error: UserError) -> UserError:
    """The error; or the sentence for a library that could not be imported, for which no checkpoint and no
    setting is to blame.
    """
    sentence = import_failure(why)
    return UserError(sentence) if sentence else error


def _first_line(why: Exception) -> str:
    return (str(why).strip().splitlines() or [type(why).__name__])[0].rstrip(".:")


def _attention(asked: str, config: Any, device: str) -> str:
    """`auto` is sdpa on a GPU and eager on a CPU, where it is the faster; two families have eager alone."""
    only_eager = config.model_type in ("wavlm", "sew-d") or (asked == "auto" and device == "cpu")
    return "eager" if asked == "eager" or only_eager else "sdpa"


def default_extractor(config: Any) -> Any:
    """The feature extractor of an architecture: a mask where the front end has layer norm, none where it has
    group norm.
    """
    import transformers

    return transformers.Wav2Vec2FeatureExtractor(
        return_attention_mask=getattr(config, "feat_extract_norm", "layer") == "layer"
    )


def _extractor(source: CheckpointSource, config: Any) -> Any:
    """The checkpoint's feature extractor, or the usual one where it has none. Raises UserError where its file
    cannot be read.
    """
    import transformers

    # The newer file holds the parts of a processor; an older one of that name holds no more than a class.
    nested = (source.json("processor_config.json") or {}).get("feature_extractor")
    settings = nested if isinstance(nested, dict) else source.json("preprocessor_config.json")
    if settings and not (isinstance(rate := settings.get("sampling_rate", 16000), int) and rate > 0):
        raise source.error(
            f"its preprocessor_config.json has the sampling_rate {rate!r}, which is no number of samples a"
            " second"
        )
    return (
        transformers.Wav2Vec2FeatureExtractor.from_dict(settings) if settings else default_extractor(config)
    )


def _check_loaded(checkpoint: str, network: Any, missing: Iterable[str], keep_head: bool) -> None:
    """Refuse a checkpoint that left more than the head (and the mask embedding) to chance."""
    random = [
        n
        for n in missing
        if not n.endswith("masked_spec_embed") and (keep_head or not n.startswith("lm_head"))
    ]
    if random:
        total = sum(1 for _ in network.named_parameters())
        raise UserError(
            f"model.checkpoint={checkpoint} lacks {len(random)} of {total} weights of"
            f" {type(network).__name__}, such as {random[0]}; is it a checkpoint of another architecture, or"
            " of other sizes than model.config gives"
            + (", or one without a CTC head (model.head=new)?" if keep_head else "?")
        )
