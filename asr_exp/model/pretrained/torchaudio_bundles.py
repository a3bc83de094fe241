"""The networks of `torchaudio.pipelines`, as transformers networks with the same output."""

import os
import pickle
from dataclasses import dataclass
from typing import Any

from asr_exp.core.errors import UserError, nearest
from asr_exp.core.libraries import torchaudio
from asr_exp.model.pretrained.source import BUNDLE
from asr_exp.model.pretrained.weights import draw_mask_embedding
from asr_exp.runtime.hub import reachable

SERVER = "https://download.pytorch.org"
# Names of the parts of torchaudio's network, and what they are called in transformers'.
PARTS = {"encoder.feature_projection.": "feature_projection.", "encoder.transformer.": "encoder."}


def bundle_labels(name: str) -> list[str]:
    """The labels of a fine-tuned bundle, such as WAV2VEC2_ASR_BASE_960H, the blank first.

    Raises UserError for an unknown name.
    """
    return list(_bundle(name, with_head=True).get_labels())


def bundle_config(name: str, keep_head: bool) -> Any:
    """The transformers config of a bundle's network. Its weights are not read.

    Raises UserError for an unknown name, and for a kind of network that cannot be converted.
    """
    import transformers

    bundle = _bundle(name, keep_head)
    facts = _facts(bundle)
    sizes = facts.sizes
    if facts.model_type != "Wav2Vec2":
        raise UserError(
            f"model.checkpoint={BUNDLE}{name} is a {facts.model_type}, whose weights cannot be taken over;"
            " use the same model's copy on the hub, such as model=wavlm-base."
        )
    convolutions = sizes["extractor_conv_layer_config"] or [
        (512, 10, 5),
        *[(512, 3, 2)] * 4,
        *[(512, 2, 2)] * 2,
    ]
    channels, kernels, strides = (list(column) for column in zip(*convolutions, strict=True))
    return transformers.Wav2Vec2Config(
        vocab_size=len(bundle.get_labels()) if keep_head else None,
        pad_token_id=0,
        hidden_size=sizes["encoder_embed_dim"],
        num_hidden_layers=sizes["encoder_num_layers"],
        num_attention_heads=sizes["encoder_num_heads"],
        intermediate_size=sizes["encoder_ff_interm_features"],
        do_stable_layer_norm=sizes["encoder_layer_norm_first"],
        feat_extract_norm="group" if sizes["extractor_mode"] == "group_norm" else "layer",
        conv_bias=sizes["extractor_conv_bias"],
        conv_dim=channels,
        conv_kernel=kernels,
        conv_stride=strides,
        num_conv_pos_embeddings=sizes["encoder_pos_conv_kernel"],
        num_conv_pos_embedding_groups=sizes["encoder_pos_conv_groups"],
        feat_proj_dropout=sizes["encoder_projection_dropout"],
        attention_dropout=sizes["encoder_attention_dropout"],
        activation_dropout=sizes["encoder_ff_interm_dropout"],
        hidden_dropout=sizes["encoder_dropout"],
        layerdrop=sizes["encoder_layer_drop"],
    )


def load_bundle(name: str, config: Any, keep_head: bool, attention: str = "eager") -> tuple[Any, Any]:
    """A bundle's CTC network, with its own head or a new one, and its feature extractor.

    config: from `bundle_config`, with the run's settings. attention: transformers' name of an implementation.
    Raises UserError for weights that cannot be downloaded, or do not fit.
    """
    import transformers

    bundle = _bundle(name, keep_head)
    original = _original_network(name, bundle)
    original = getattr(original, "model", original)  # without the module that normalises the waveform
    weights = {
        _transformers_name(key): tensor
        for key, tensor in original.state_dict().items()
        if keep_head or not key.startswith("aux.")
    }
    loaded: Any = transformers.Wav2Vec2ForCTC.from_pretrained(
        None,
        config=config,
        state_dict=weights,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        attn_implementation=attention,
    )
    network, info = loaded
    misfits = {*info["unexpected_keys"], *(key for key, *_ in info["mismatched_keys"]), *info["missing_keys"]}
    misfits -= {"wav2vec2.masked_spec_embed", *([] if keep_head else ["lm_head.weight", "lm_head.bias"])}
    if misfits:
        raise UserError(
            f"model.checkpoint={BUNDLE}{name} does not fit the settings of the model, or is no network that"
            f" transformers has an equal of: {min(misfits)}."
        )
    draw_mask_embedding(network, info["missing_keys"])
    return network, bundle_extractor(name, config)


def bundle_extractor(name: str, config: Any) -> Any:
    """transformers' feature extractor for a bundle: its sampling rate, and whether it normalises."""
    import transformers

    bundle = _bundle(name, with_head=False)
    return transformers.Wav2Vec2FeatureExtractor(
        sampling_rate=int(bundle.sample_rate),
        do_normalize=_facts(bundle).normalises,
        return_attention_mask=config.feat_extract_norm == "layer",
        variance_epsilon=1e-5,
    )


@dataclass(frozen=True)
class _BundleFacts:
    """sizes: arguments of torchaudio's network. file: the name of the file of weights. normalises: whether
    the waveform is normalised first.
    """

    sizes: dict[str, Any]
    model_type: str
    file: str
    normalises: bool


def _facts(bundle: Any) -> _BundleFacts:
    """What a bundle keeps in private attributes, as seen in torchaudio 2.11.

    There is no public way to the sizes without the weights. A release without these attributes raises
    UserError here.
    """
    try:
        file = os.path.basename(bundle._path)
        return _BundleFacts(bundle._params, bundle._model_type, file, bool(bundle._normalize_waveform))
    except AttributeError as why:
        raise UserError(
            f"model.checkpoint={BUNDLE}...: this release of torchaudio keeps no {why.name} of its bundles;"
            " use the same model's copy on the hub, such as model=wav2vec2-base, or torchaudio 2.11."
        ) from why


def _bundle(name: str, with_head: bool) -> Any:
    """A bundle of torchaudio.pipelines. Raises UserError for an unknown name."""
    pipelines = torchaudio("pipelines", "Wav2Vec2Bundle", "Wav2Vec2ASRBundle")
    kind = pipelines.Wav2Vec2ASRBundle if with_head else pipelines.Wav2Vec2Bundle
    known = [one for one in dir(pipelines) if isinstance(getattr(pipelines, one), kind)]
    if name not in known:
        what = "recogniser" if with_head else "network"
        raise UserError(
            f"model.checkpoint={BUNDLE}{name}: torchaudio.pipelines has no {what} of that"
            f" name.{nearest(name, known)} There are: {', '.join(known)}."
        )
    return getattr(pipelines, name)


def _original_network(name: str, bundle: Any) -> Any:
    """torchaudio's network with its weights, which are downloaded unless torch.hub has them already.

    Raises UserError where they cannot be downloaded, or where the file holds others.
    """
    import torch

    file = os.path.join(torch.hub.get_dir(), "checkpoints", _facts(bundle).file)
    advice = f"Put its file at {file}, or run once with a connection to the internet."
    if not os.path.exists(file) and not reachable(SERVER):
        raise UserError(
            f"model.checkpoint={BUNDLE}{name}: its weights are not there, and {SERVER} cannot be reached from"
            f" here. {advice}"
        )
    try:
        return bundle.get_model(dl_kwargs={"map_location": "cpu", "weights_only": True})
    except OSError as why:
        raise UserError(
            f"model.checkpoint={BUNDLE}{name}: its weights cannot be downloaded from {SERVER} ({why})."
            f" {advice}"
        ) from why
    except (RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as why:
        reason = " ".join(str(why).split())[:200]
        raise UserError(
            f"model.checkpoint={BUNDLE}{name}: {file} does not hold its weights ({reason}); delete it, or put"
            " the right one there."
        ) from why


def _transformers_name(key: str) -> str:
    """What transformers calls a weight of torchaudio's network."""
    if key.startswith("aux."):
        return f"lm_head.{key.removeprefix('aux.')}"
    for theirs, ours in PARTS.items():
        if key.startswith(theirs):
            return f"wav2vec2.{ours}{key.removeprefix(theirs)}"
    return f"wav2vec2.{key}"
