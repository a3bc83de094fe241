"""Recognisers out of `torchaudio.pipelines`: their weights in a transformers network, which computes the same from them."""

import os
import pickle
from typing import Any

from asr_exp.errors import UserError, nearest
from asr_exp.hub import reachable

PREFIX = "torchaudio:"
SERVER = "https://download.pytorch.org"
# Where a part of torchaudio's network stands in that of transformers.
PLACES = {"encoder.feature_projection.": "feature_projection.", "encoder.transformer.": "encoder."}


def load_bundle(name: str, device: str = "cpu") -> tuple[Any, Any, list[str]]:
    """(CTC network, feature extractor, labels with the blank first) of a bundle of torchaudio, such as WAV2VEC2_ASR_BASE_960H.

    Raises UserError for a name that is none, for weights that cannot be had, and for a network that transformers has no equal of.
    """
    import transformers

    bundle = _bundle(name)
    theirs = _weights(name, bundle)
    normalised = bool(getattr(theirs, "normalize_waveform", False))
    theirs = getattr(theirs, "model", theirs)  # what normalises the waveform is wrapped around it
    attention = "eager" if device == "cpu" else "sdpa"
    network = transformers.AutoModelForCTC.from_config(_config(theirs), attn_implementation=attention)
    weights = {_place(key): tensor for key, tensor in theirs.state_dict().items()}
    try:
        network.load_state_dict(weights)
    except RuntimeError as why:
        raise UserError(f"run={PREFIX}{name} is no network that transformers has an equal of: {str(why).splitlines()[1].strip()}") from why
    grouped = network.config.feat_extract_norm == "group"
    extractor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=int(bundle.sample_rate), do_normalize=normalised,
                                                      return_attention_mask=not grouped, variance_epsilon=1e-5)
    return network, extractor, list(bundle.get_labels())[: network.config.vocab_size]


def _bundle(name: str) -> Any:
    from torchaudio import pipelines

    known = [one for one in dir(pipelines) if isinstance(getattr(pipelines, one), pipelines.Wav2Vec2ASRBundle)]
    if name not in known:
        raise UserError(f"run={PREFIX}{name}: torchaudio.pipelines has no recogniser of that name.{nearest(name, known)} "
                        f"There are: {', '.join(known)}.")
    return getattr(pipelines, name)


def _weights(name: str, bundle: Any) -> Any:
    """The bundle's own network, from where torch.hub keeps its weights, or downloaded."""
    import torch

    file = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(bundle._path))
    advice = f"Put its file at {file}, or run once with network."
    if not os.path.exists(file) and not reachable(SERVER):
        raise UserError(f"run={PREFIX}{name}: its weights are not there, and {SERVER} cannot be reached from here. {advice}")
    try:
        return bundle.get_model(dl_kwargs={"map_location": "cpu", "weights_only": True})
    except OSError as why:
        raise UserError(f"run={PREFIX}{name}: its weights cannot be downloaded from {SERVER} ({why}). {advice}") from why
    except (RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as why:
        reason = " ".join(str(why).split())[:200]
        raise UserError(f"run={PREFIX}{name}: {file} does not hold its weights ({reason}); delete it, or put the right one there.") from why


def _config(theirs: Any) -> Any:
    """The sizes of a torchaudio network, read off its modules, as a transformers config."""
    import torch
    import transformers

    convolutions = [layer.conv for layer in theirs.feature_extractor.conv_layers]
    encoder = theirs.encoder.transformer
    first, positions = encoder.layers[0], encoder.pos_conv_embed.conv
    grouped = isinstance(theirs.feature_extractor.conv_layers[0].layer_norm, torch.nn.GroupNorm)
    return transformers.Wav2Vec2Config(
        vocab_size=theirs.aux.out_features, pad_token_id=0, hidden_size=first.attention.embed_dim, num_hidden_layers=len(encoder.layers),
        num_attention_heads=first.attention.num_heads, intermediate_size=first.feed_forward.intermediate_dense.out_features,
        do_stable_layer_norm=first.layer_norm_first, feat_extract_norm="group" if grouped else "layer",
        conv_bias=convolutions[0].bias is not None, conv_dim=[one.out_channels for one in convolutions],
        conv_kernel=[one.kernel_size[0] for one in convolutions], conv_stride=[one.stride[0] for one in convolutions],
        num_conv_pos_embeddings=positions.kernel_size[0], num_conv_pos_embedding_groups=positions.groups,
        mask_time_prob=0.0, mask_feature_prob=0.0, layerdrop=0.0,
    )  # fmt: skip


def _place(key: str) -> str:
    """What transformers calls a weight of torchaudio's."""
    if key.startswith("aux."):
        return f"lm_head.{key.removeprefix('aux.')}"
    for theirs, ours in PLACES.items():
        if key.startswith(theirs):
            return f"wav2vec2.{ours}{key.removeprefix(theirs)}"
    return f"wav2vec2.{key}"
