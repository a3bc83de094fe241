"""Networks out of `torchaudio.pipelines`: their weights in a transformers network, which computes the same
from them.
"""

import os
import pickle
from typing import Any

from asr_exp.core.errors import UserError, nearest
from asr_exp.core.libraries import torchaudio
from asr_exp.model.pretrained.source import BUNDLE
from asr_exp.model.pretrained.weights import draw_mask_embedding
from asr_exp.runtime.hub import reachable

SERVER = "https://download.pytorch.org"
# Where a part of torchaudio's network stands in that of transformers.
PLACES = {"encoder.feature_projection.": "feature_projection.", "encoder.transformer.": "encoder."}


def bundle_labels(name: str) -> list[str]:
    """The labels of a fine-tuned bundle, such as WAV2VEC2_ASR_BASE_960H, the blank first. Raises UserError
    for a name that is none.
    """
    return list(_bundle(name, with_head=True).get_labels())


def bundle_config(name: str, keep_head: bool) -> Any:
    """The sizes of a bundle's network as a transformers config, without its weights.

    Raises UserError for a name that is none, and for a network that transformers has no equal of.
    """
    import transformers

    bundle = _bundle(name, keep_head)
    sizes = bundle._params
    if bundle._model_type != "Wav2Vec2":
        raise UserError(
            f"model.checkpoint={BUNDLE}{name} is a {bundle._model_type}, whose weights cannot be taken over;"
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
    """(CTC network, feature extractor) of a bundle, in the network of `config` (see `bundle_config`): with
    its own head, or a new one.

    Raises UserError for weights that cannot be had, or do not fit.
    """
    import transformers

    bundle = _bundle(name, keep_head)
    theirs = _weights(name, bundle)
    theirs = getattr(theirs, "model", theirs)  # what normalises the waveform is wrapped around it
    weights = {
        _place(key): tensor
        for key, tensor in theirs.state_dict().items()
        if keep_head or not key.startswith("aux.")
    }
    made: Any = transformers.Wav2Vec2ForCTC.from_pretrained(
        None,
        config=config,
        state_dict=weights,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        attn_implementation=attention,
    )
    network, info = made
    strange = {*info["unexpected_keys"], *(key for key, *_ in info["mismatched_keys"]), *info["missing_keys"]}
    strange -= {"wav2vec2.masked_spec_embed", *([] if keep_head else ["lm_head.weight", "lm_head.bias"])}
    if strange:
        raise UserError(
            f"model.checkpoint={BUNDLE}{name} does not fit the settings of the model, or is no network that"
            f" transformers has an equal of: {min(strange)}."
        )
    draw_mask_embedding(network, info["missing_keys"])
    return network, bundle_extractor(name, config)


def bundle_extractor(name: str, config: Any) -> Any:
    """How a bundle wants its waveforms, as a feature extractor of transformers."""
    import transformers

    bundle = _bundle(name, with_head=False)
    return transformers.Wav2Vec2FeatureExtractor(
        sampling_rate=int(bundle.sample_rate),
        do_normalize=bool(bundle._normalize_waveform),
        return_attention_mask=config.feat_extract_norm == "layer",
        variance_epsilon=1e-5,
    )


def _bundle(name: str, with_head: bool) -> Any:
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


def _weights(name: str, bundle: Any) -> Any:
    """The bundle's own network, from where torch.hub keeps its weights, or downloaded."""
    import torch

    file = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(bundle._path))
    advice = f"Put its file at {file}, or run once with network."
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


def _place(key: str) -> str:
    """What transformers calls a weight of torchaudio's."""
    if key.startswith("aux."):
        return f"lm_head.{key.removeprefix('aux.')}"
    for theirs, ours in PLACES.items():
        if key.startswith(theirs):
            return f"wav2vec2.{ours}{key.removeprefix(theirs)}"
    return f"wav2vec2.{key}"
