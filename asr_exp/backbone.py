"""Backbones out of transformers' `Auto*` classes: any CTC architecture that takes waveforms, by hub id, folder or type."""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from asr_exp.errors import UserError, nearest
from asr_exp.hub import offline_where_unreachable

BUILTIN = Path(__file__).parent / "pretrained"  # folders of checkpoints, named builtin:FOLDER in a config


def load_backbone(checkpoint: str | None, vocabulary: int, blank: int, *, revision: str | None = None, architecture: str | None = None,
                  settings: dict[str, Any] | None = None, augment: dict[str, Any] | None = None, keep_head: bool = False,
                  attention: str = "auto", device: str = "cpu") -> tuple[Any, Any]:
    """(CTC network, feature extractor) of a pretrained checkpoint (hub id or folder), or of an architecture with random weights.

    settings: architecture settings that differ; augment: masks, layerdrop, dropout (None: as the checkpoint says). A new
    head of `vocabulary` outputs is drawn from torch's generator, so seed it first. Raises UserError for what cannot be loaded.
    """
    import transformers

    if not keep_head:
        settings = {**(settings or {}), "vocab_size": vocabulary, "pad_token_id": blank}
    config = read_config(checkpoint, revision, architecture, settings, augment)
    attention = _attention(attention, config, device)
    if checkpoint is None:
        try:
            network = transformers.AutoModelForCTC.from_config(config, attn_implementation=attention)
        except (ValueError, RuntimeError, TypeError, ZeroDivisionError, LookupError) as why:
            told = f"model.config does not make a {architecture}: {str(why).splitlines()[0].rstrip('.')}. Its numbers must fit each other."
            raise UserError(told) from why
        extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=config.feat_extract_norm == "layer")
        return network, extractor
    source = _source(checkpoint)
    with _named(checkpoint):
        network, info = transformers.AutoModelForCTC.from_pretrained(
            source, revision=revision or "main", config=config, dtype=torch.float32, use_safetensors=True,
            ignore_mismatched_sizes=not keep_head, output_loading_info=True, attn_implementation=attention,
        )
    _check_loaded(checkpoint, network, {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}, keep_head)
    return network, _extractor(source, revision, config)


def read_outline(folder: Path) -> tuple[Any, Any]:
    """(config, feature extractor) of a checkpoint's folder, without its weights. Raises UserError for what cannot be read."""
    return read_config(str(folder)), _extractor(str(folder), None, None)


def read_config(checkpoint: str | None, revision: str | None = None, architecture: str | None = None,
                settings: dict[str, Any] | None = None, augment: dict[str, Any] | None = None, **_: Any) -> Any:
    """The transformers config with the run's settings. Raises UserError for an unknown type or setting, or no network."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING_NAMES as CTC

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if checkpoint is not None:
        source = _source(checkpoint)
        if _is_path(checkpoint) and not Path(source).is_dir():
            raise UserError(f"model.checkpoint={checkpoint} is not a folder; give a folder made by save_pretrained, or a hub id.")
        with _named(checkpoint):
            config = transformers.AutoConfig.from_pretrained(source, revision=revision or "main")
    else:
        if architecture is None or architecture not in CTC:
            known = f"{nearest(str(architecture), CTC)} Known: {', '.join(CTC)}."
            raise UserError(f"model.architecture={architecture} is not a CTC architecture.{known}")
        config = transformers.AutoConfig.for_model(architecture)
    if config.model_type not in CTC:
        raise UserError(f"{checkpoint or architecture} is a {config.model_type}, which has no CTC head; use one of {', '.join(CTC)}.")
    if getattr(config, "add_adapter", False):
        raise UserError(f"{checkpoint or architecture} has an adapter that shortens its output; set +model.config.add_adapter=false.")
    if not hasattr(config, "conv_stride"):
        raise UserError(f"{checkpoint or architecture} ({config.model_type}) takes spectral features; give one that takes waveforms.")
    for name, value in {**(settings or {}), "ctc_loss_reduction": "mean"}.items():
        if not hasattr(config, name):
            raise UserError(f"model.config.{name} is not a setting of {config.model_type}.{nearest(name, vars(config))}")
        try:
            setattr(config, name, value)
        except Exception as why:  # transformers knows of what type it is, and has exceptions of its own for that
            raise UserError(f"model.config.{name}={value} is of the wrong kind: {str(why.__cause__ or why).partition('. ')[0]}.") from None
    for name in ("conv_stride", "conv_kernel"):
        if min(getattr(config, name), default=0) < 1:
            raise UserError(f"model.config.{name}={list(getattr(config, name))} must be numbers of at least 1, one for each layer.")
    for name in vars(config):
        asked = (augment or {}).get("dropout" if name.endswith("dropout") else name)
        if asked is not None:
            setattr(config, name, asked)
    return config


def _is_path(checkpoint: str) -> bool:
    return checkpoint.startswith(("/", ".", "~")) or Path(checkpoint).is_dir()


def _source(checkpoint: str) -> str:
    """Where transformers finds a checkpoint: a folder, or an id on the hub. `builtin:NAME` is one that comes with this package."""
    if checkpoint.startswith("builtin:"):
        there = {f"builtin:{path.parent.name}": str(path.parent) for path in BUILTIN.glob("*/model.safetensors")}
        if checkpoint not in there:
            raise UserError(f"model.checkpoint={checkpoint} does not come with asr_exp; there is {', '.join(there)}.")
        return there[checkpoint]
    return str(Path(checkpoint).expanduser()) if _is_path(checkpoint) else checkpoint


def _attention(asked: str, config: Any, device: str) -> str:
    """`auto` is sdpa on a GPU and eager on a CPU, where it is the faster; two families have eager alone."""
    only_eager = config.model_type in ("wavlm", "sew-d") or (asked == "auto" and device == "cpu")
    return "eager" if asked == "eager" or only_eager else "sdpa"


def _extractor(source: str, revision: str | None, config: Any) -> Any:
    """The checkpoint's feature extractor, or the usual one where the folder has none."""
    import transformers

    try:
        return transformers.AutoFeatureExtractor.from_pretrained(source, revision=revision or "main")
    except (OSError, ValueError):
        return transformers.Wav2Vec2FeatureExtractor(return_attention_mask=getattr(config, "feat_extract_norm", "layer") == "layer")


@contextlib.contextmanager
def _named(checkpoint: str) -> Any:
    """Turn transformers' many ways of not finding or reading a checkpoint into one sentence that names it."""
    if not _is_path(checkpoint) and ":" not in checkpoint:  # an id on the hub
        offline_where_unreachable()
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as why:
        reason = str(why).strip().splitlines()[0] if str(why).strip() else type(why).__name__
        if any(word in str(why) for word in ("connect", "offline", "resolve", "Max retries", "timed out")):
            reason = "the hub cannot be reached from here"
        advice = " Give a local folder (model.checkpoint=FOLDER), or run once with network to fill the cache." * (not _is_path(checkpoint))
        raise UserError(f"model.checkpoint={checkpoint} cannot be loaded: {reason.rstrip('.')}.{advice}") from None


def _check_loaded(checkpoint: str, network: Any, missing: Iterable[str], keep_head: bool) -> None:
    """Refuse a checkpoint that left more than the head (and the mask embedding) to chance."""
    random = [n for n in missing if not n.endswith("masked_spec_embed") and (keep_head or not n.startswith("lm_head"))]
    if random:
        total = sum(1 for _ in network.named_parameters())
        raise UserError(
            f"model.checkpoint={checkpoint} lacks {len(random)} of {total} weights of {type(network).__name__}, such as {random[0]}; "
            "is it a checkpoint of another architecture, or of other sizes than model.config gives"
            + (", or one without a CTC head (model.head=new)?" if keep_head else "?")
        )
