"""Every part of a transformers network that asr_exp replaces, and the only file that replaces one.

Parts are replaced on one instance of a network, and no module is wrapped, so its weights keep their names.
`PATCHES` says what, in which families, why, and which tests fail when transformers changes the part. With
`model.padding=transformers` nothing is replaced.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from asr_exp.model.dropout import dropout
from asr_exp.model.front_end import FrontEnd
from asr_exp.model.packed_encoder import (
    FAMILIES,
    PositionalConv,
    attend_fused,
    attend_in_groups,
    attend_wavlm,
)
from asr_exp.model.pass_context import current_pass, running

ALL = "all"
PACKED = ", ".join(FAMILIES)
PADDING = "tests/model/test_padding.py::"
PACKED_TEST = f"{PADDING}test_a_packed_batch_is_transformers_one_utterance_at_a_time"


class Patch(NamedTuple):
    """One replaced part of a network, in which families (by model_type), and why."""

    replaced: str
    families: str
    reason: str
    tests: tuple[str, ...]


PATCHES = (
    Patch(
        "backbone._mask_hidden_states",
        ALL,
        "transformers draws masks for a batch, so that they depend on the other utterances, and draws its own"
        " where none are given. Time masks are handed over by the public mask_time_indices; masks of features"
        " have no argument. Its assignment by a bool index waits for a GPU and writes in place.",
        (PACKED_TEST, f"{PADDING}test_masks_change_what_they_cover"),
    ),
    Patch(
        "backbone.feature_extractor.forward",
        ALL,
        "a packed batch, the norm of a recording for its pieces, the feature cache, and no activations kept"
        " of a frozen front end",
        (f"{PADDING}test_transformers_own_logits", PACKED_TEST),
    ),
    Patch(
        "backbone.encoder.pos_conv_embed.forward",
        PACKED,
        "the convolution of a packed batch would mix neighbouring utterances, and torch's grouped convolution"
        " is slow on a CPU; on a GPU all groups are one matrix product",
        (
            PACKED_TEST,
            "tests/model/test_packed_encoder.py::test_positions_are_convolved_in_one_product_as_torch_does",
        ),
    ),
    Patch(
        "config._attn_implementation",
        "wav2vec2, hubert, unispeech, unispeech-sat",
        "attention within each utterance of a packed batch, on a GPU by the kernels for sequences of varying"
        " lengths (varlen_attention.py); by the public AttentionInterface and set_attn_implementation",
        (
            PACKED_TEST,
            "tests/model/cuda/test_attention_kernels.py"
            "::test_flash_in_half_precision_and_efficient_in_fp32_and_with_a_bias",
        ),
    ),
    Patch(
        "backbone.encoder.layers.*.attention.forward",
        "wavlm",
        "the same, on a GPU by the memory-efficient kernel with its bias (gated_attention.py); WavLM's"
        " attention does not call an AttentionInterface",
        (PACKED_TEST, "tests/model/test_gated_attention.py::test_gated_attention_is_that_of_groups"),
    ),
    Patch(
        "backbone.encoder.encoder.get_rel_pos",
        "sew-d",
        "transformers copies a number to a GPU for each utterance, and waits for it",
        ("tests/training/cuda/test_syncs.py::test_a_step_waits_for_nothing",),
    ),
    Patch(
        "config.layerdrop",
        ALL,
        "0.0, so that transformers drops no layer: it draws for each forward pass, and a step of several"
        " passes and ranks needs one draw. The saved config has the run's own value.",
        (f"{PADDING}test_layerdrop_survives_saving",),
    ),
    Patch(
        "backbone.encoder.layers.*.forward",
        "all but sew-d, which has no layerdrop",
        "skips the layers that the step has drawn; with trainer.compile they are compiled (compile_blocks)",
        (f"{PADDING}test_the_gradient_of_a_batch_is_the_sum_of_its_utterances", PACKED_TEST),
    ),
    Patch(
        "network.modules().forward",
        f"{ALL}, every torch.nn.Dropout",
        "torch draws a CPU's dropout so slowly that it takes a fifth of a training step",
        (
            "tests/model/test_packed_encoder.py::test_dropout",
            "tests/model/test_transformers_patches.py::test_every_dropout_is_replaced",
        ),
    ),
    Patch(
        "network.activation_checkpointing_enable",
        ALL,
        "not replaced: the name that later releases of transformers 5 give to gradient_checkpointing_enable",
        (
            "tests/training/test_training.py::test_gradient_checkpointing_changes_nothing_but_memory",
            "tests/model/test_transformers_patches.py::test_checkpointed_layers_run_again_in_their_own_pass",
        ),
    ),
)

# Names of ours in transformers' AttentionInterface, by the implementation that the run has chosen. A name
# with "sdpa" in it would be checked as torch's.
PACKED_ATTENTION = {"eager": "asr_exp_packed", "sdpa": "asr_exp_packed_fused"}


def patch(network: Any, front_end: FrontEnd, positional_conv: PositionalConv | None) -> None:
    """Replace the parts of `PATCHES` on this instance.

    front_end: computes the features. positional_conv: of an encoder that is run on packed batches; None for
    one that is not.
    """
    backbone = getattr(network, network.base_model_prefix)
    backbone._mask_hidden_states = partial(_mask, backbone)
    backbone.feature_extractor.forward = front_end.forward
    _replace_dropout(network)
    if positional_conv:
        _pack(network, backbone, positional_conv)
    if network.config.model_type == "sew-d":
        encoder = backbone.encoder.encoder
        encoder.get_rel_pos = partial(_relative_positions, encoder, encoder.get_rel_pos)
    network.config.layerdrop = 0.0
    for number, layer in enumerate(getattr(backbone.encoder, "layers", [])):
        hands_on_bias = network.config.model_type == "wavlm"
        layer.forward = partial(_run_or_skip, partial(_own_forward, layer), number, hands_on_bias)


def _own_forward(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """A layer's forward by the class that it has now. FSDP2 gives it another one, and transformers
    checkpoints the forward of no class but that.
    """
    return type(layer).forward(layer, *args, **kwargs)


def _mask(
    backbone: Any, hidden_states: torch.Tensor, mask_time_indices: torch.Tensor | None = None, **_: Any
) -> torch.Tensor:
    """Hidden states, (rows, frames, channels), with the pass's masks.

    mask_time_indices: (rows, frames), bool, True where the mask embedding stands in place of a frame.
    """
    if mask_time_indices is not None and hasattr(backbone, "masked_spec_embed"):
        embedding = backbone.masked_spec_embed.to(hidden_states.dtype)
        time_mask = F.pad(mask_time_indices, (0, hidden_states.shape[1] - mask_time_indices.shape[1]))
        hidden_states = torch.where(time_mask[:, :, None], embedding, hidden_states)
    context = current_pass()
    if (feature_mask := context.feature_mask) is not None:
        feature_mask = feature_mask if context.layout else feature_mask[:, None, :]
        hidden_states = hidden_states.masked_fill(feature_mask, 0.0)
    return hidden_states.clone()  # encoders zero the padding in place


def _relative_positions(
    encoder: Any, original: Callable[..., Any], hidden_states: torch.Tensor, *args: Any, **kwargs: Any
) -> Any:
    """SEW-D's buckets of relative positions, (1, frames, frames). transformers' own function makes those of
    all distances on the CPU, and the GPU picks them. On a CPU it makes all.
    """
    buckets, longest = encoder.position_buckets, encoder.max_relative_positions
    asked = any(value is not None for value in (*args, *kwargs.values()))
    if not hidden_states.is_cuda or asked or not encoder.relative_attention or min(buckets, longest) <= 0:
        return original(hidden_states, *args, **kwargs)
    frames = hidden_states.shape[-2]
    module = sys.modules[type(encoder).__module__]
    table = module.make_log_bucket_position(torch.arange(1 - frames, frames), buckets, longest).long()
    table = table.pin_memory().to(hidden_states.device, non_blocking=True)
    places = torch.arange(frames, device=hidden_states.device)
    return table[places[:, None] - places[None, :] + frames - 1][None]


def _pack(network: Any, backbone: Any, positional_conv: PositionalConv) -> None:
    from transformers import AttentionInterface

    backbone.encoder.pos_conv_embed.forward = positional_conv.forward
    if network.config.model_type == "wavlm":
        for layer in backbone.encoder.layers:
            layer.attention.forward = partial(attend_wavlm, layer.attention)
        return
    for implementation, function in (("eager", attend_in_groups), ("sdpa", attend_fused)):
        AttentionInterface.register(PACKED_ATTENTION[implementation], function)
    network.set_attn_implementation(PACKED_ATTENTION[network.config._attn_implementation])
    for layer in backbone.encoder.layers:
        layer.attention.register_forward_pre_hook(_own_input)


def _own_input(_: nn.Module, args: tuple) -> tuple:
    """Hand attention a view of its input, so that autograd sums the gradients of query, key and value before
    it adds that of the residual. Another order rounds otherwise, and a run would not resume bit for bit.
    """
    hidden_states, *others = args
    return hidden_states.view_as(hidden_states), *others


def _run_or_skip(
    forward: Callable[..., Any],
    number: int,
    hands_on_bias: bool,
    hidden_states: torch.Tensor,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """The forward pass of an encoder layer, or none where the pass drops it. WavLM's layers hand the position
    bias on to the next.
    """
    if number in current_pass().dropped_layers:
        return (hidden_states, kwargs.get("position_bias")) if hands_on_bias else hidden_states
    return forward(hidden_states, *args, **kwargs)


def compile_blocks(network: Any, blocks: Iterable[nn.Module], **options: Any) -> None:
    """Have `torch.compile` fuse what stands between the products of each encoder layer, for any length.

    Attention reads the layout of its pass, which is none of the layer's arguments, so it is left as it is: a
    layer is compiled up to its attention and from there on. So is dropout on a CPU, which numpy draws.

    Args:
        network: transformers' network, patched or not.
        blocks: its encoder layers.
        options: of `torch.compile`.
    """
    from transformers import AttentionInterface

    leave = partial(torch.compiler.disable, reason="it is computed outside of compiled code")
    on_cpu = next(network.parameters()).device.type == "cpu"
    for module in network.modules():
        own = vars(module).get("forward")
        attends = isinstance(own, partial) and own.func is attend_wavlm
        if own and (attends or on_cpu and type(module) is nn.Dropout):
            module.forward = leave(own)
    attention = network.config._attn_implementation
    if attention in PACKED_ATTENTION.values():
        AttentionInterface.register(f"{attention}_uncompiled", leave(AttentionInterface()[attention]))
        network.set_attn_implementation(f"{attention}_uncompiled")
    for block in blocks:
        forward: Any = block.forward
        if isinstance(forward, partial) and forward.func is _run_or_skip:
            inner, *others = forward.args
            compiled = torch.compile(inner, dynamic=True, **options)
            block.forward = partial(_run_or_skip, compiled, *others)  # type: ignore[method-assign]
        else:
            block.forward = torch.compile(forward, dynamic=True, **options)  # type: ignore[method-assign]


def _replace_dropout(network: nn.Module) -> None:
    for module in network.modules():
        if type(module) is nn.Dropout:
            module.forward = lambda x, module=module: dropout(x, module.p, module.training)  # type: ignore[method-assign,misc]


@contextmanager
def original_layerdrop(network: Any, rate: float) -> Iterator[None]:
    """While it lasts the config has the layerdrop that the run was given, for it to be saved."""
    replaced = getattr(network.config, "layerdrop", 0.0)
    network.config.layerdrop = rate
    try:
        yield
    finally:
        network.config.layerdrop = replaced


def enable_gradient_checkpointing(network: Any) -> None:
    """Have each layer's activations computed again in the backward pass, to save memory (Chen et al. 2016).

    The layers run again in the pass that they ran in. The backward pass comes when that pass is over, and on
    a GPU in a thread of autograd, so torch is given the context by its public `context_fn`.
    """
    enable = (
        getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
    )
    enable({"use_reentrant": False, "context_fn": _same_pass})


def _same_pass() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of a layer's first run, which has one already, and of the run in the backward pass."""
    return nullcontext(), running(current_pass())
