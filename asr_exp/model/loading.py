"""Networks and feature extractors from transformers' `Auto*` classes: any CTC architecture that takes
waveforms.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from asr_exp.core.errors import UserError
from asr_exp.core.libraries import import_failure
from asr_exp.model.model_config import ModelSettings, first_line, read_config
from asr_exp.model.model_info import ModelInfo
from asr_exp.model.pretrained.source import BUNDLE, CheckpointSource, find_checkpoint
from asr_exp.model.pretrained.torchaudio_bundles import bundle_extractor, load_bundle
from asr_exp.model.pretrained.weights import HEAD, draw_mask_embedding, head_size, read_weights

# What transformers raises for a config whose numbers do not fit each other.
MISFIT = (ValueError, RuntimeError, TypeError, ZeroDivisionError, LookupError)


def load_backbone(settings: ModelSettings, vocabulary: int, blank: int) -> tuple[Any, Any]:
    """A CTC network in fp32, and its feature extractor: pretrained, or of random weights.

    A new head is drawn from torch's generator, so seed it first.

    Args:
        settings: which network, and how.
        vocabulary: outputs of a new head; of no meaning where the checkpoint's head is kept.
        blank: the number of the CTC blank, likewise.

    Returns:
        transformers' network, on the CPU, and its feature extractor.

    Raises:
        UserError: for what cannot be loaded.
    """
    if not settings.keep_head:
        head = {"vocab_size": vocabulary, "pad_token_id": blank}
        settings = replace(settings, config={**settings.config, **head})
    config = read_config(settings)
    attention = _attention(settings, config)
    if settings.checkpoint is None:
        return _random_network(config, attention), default_extractor(config)
    if settings.checkpoint.startswith(BUNDLE):
        name = settings.checkpoint.removeprefix(BUNDLE)
        return load_bundle(name, config, settings.keep_head, attention)
    source = find_checkpoint(settings.checkpoint, settings.revision)
    return _pretrained_network(source, config, settings.keep_head, attention), _extractor(source, config)


def check_checkpoint(settings: ModelSettings) -> None:
    """Raise UserError for a network that cannot be loaded, as far as can be known without reading all of its
    weights. The weights of a hub id are downloaded.
    """
    read_config(settings)
    if settings.checkpoint and not settings.checkpoint.startswith(BUNDLE):
        head_size(find_checkpoint(settings.checkpoint, settings.revision))


def read_model_info(checkpoint: Path | str, revision: str | None = None) -> ModelInfo:
    """Config and feature extractor of a fine-tuned checkpoint, without its weights.

    Raises UserError for what cannot be read.
    """
    name = str(checkpoint)
    config = read_config(ModelSettings(name, revision, keep_head=True))
    if name.startswith(BUNDLE):
        return ModelInfo(config, bundle_extractor(name.removeprefix(BUNDLE), config))
    return ModelInfo(config, _extractor(find_checkpoint(name, revision), config))


# ------------------------------------------------------------------------------------------------------------
# networks


def _random_network(config: Any, attention: str) -> Any:
    import transformers

    try:
        return transformers.AutoModelForCTC.from_config(config, attn_implementation=attention)
    except MISFIT as why:
        message = (
            f"model.config does not make a {config.model_type}: {first_line(why)}. Its numbers must fit each"
            " other."
        )
        raise _import_error_or(why, UserError(message)) from why


def _pretrained_network(source: CheckpointSource, config: Any, keep_head: bool, attention: str) -> Any:
    """The network of a config with a checkpoint's weights. Raises UserError where they do not fit, or hold
    what is not a number.
    """
    import transformers

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
    except MISFIT as why:
        message = f"its config.json does not make a {config.model_type} ({first_line(why)})"
        raise _import_error_or(why, source.error(message)) from why
    mismatched = {name for name, *_ in info["mismatched_keys"]}
    _check_loaded(source.name, network, {*info["missing_keys"], *mismatched}, keep_head)
    draw_mask_embedding(network, info["missing_keys"])
    sums = ((name, one.detach().sum(dtype=torch.float64)) for name, one in network.named_parameters())
    if broken := next((name for name, total in sums if not torch.isfinite(total)), None):
        raise source.error(
            f"its weights hold what is no number ({broken}), as a training that diverged leaves them; give"
            " another"
        )
    return network


def _import_error_or(error: Exception, other: UserError) -> UserError:
    """A UserError for a library that could not be imported, for which no checkpoint and no setting is to
    blame; or the other one.
    """
    sentence = import_failure(error)
    return UserError(sentence) if sentence else other


def _check_loaded(checkpoint: str, network: Any, missing: Iterable[str], keep_head: bool) -> None:
    """Raise UserError for a checkpoint that lacks more weights than those of a new head and the mask
    embedding.
    """
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


def _attention(settings: ModelSettings, config: Any) -> str:
    """transformers' name of the attention: `auto` is sdpa on a GPU, and eager on a CPU, where it is faster.
    WavLM and SEW-D have eager alone.
    """
    if config.model_type in ("wavlm", "sew-d"):
        return "eager"
    if settings.attention == "auto":
        return "eager" if settings.device == "cpu" else "sdpa"
    return settings.attention


# ------------------------------------------------------------------------------------------------------------
# feature extractors


def default_extractor(config: Any) -> Any:
    """The usual feature extractor of an architecture: it gives an attention mask where the front end has
    layer norms, and none where it has a group norm.
    """
    import transformers

    return transformers.Wav2Vec2FeatureExtractor(
        return_attention_mask=getattr(config, "feat_extract_norm", "layer") == "layer"
    )


def _extractor(source: CheckpointSource, config: Any) -> Any:
    """The checkpoint's feature extractor, or the usual one where it has none.

    Raises UserError where its file cannot be read.
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
