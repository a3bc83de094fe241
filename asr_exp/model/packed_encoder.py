"""A Transformer encoder over a packed batch: its utterances laid end to end, (1, all frames + tail,
channels).

Linear layers, norms and dropout work on each frame alone. The positional convolution and attention do not:
here they are computed for each utterance alone. `transformers_patches.py` puts them into a network.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from asr_exp.model.attention_heads import merge_heads, split_heads
from asr_exp.model.drawn_rows import DrawnRows
from asr_exp.model.dropout import dropout, skip_dropout
from asr_exp.model.gated_attention import KEY_MULTIPLE, attend_gated
from asr_exp.model.layout import Layout, LengthGroup
from asr_exp.model.pass_context import current_layout
from asr_exp.model.positional_conv import block_filters, convolve_positions
from asr_exp.model.varlen_attention import attend_varlen, takes_efficient

# Families whose encoders give each utterance of a packed batch what they give it alone
# (tests/model/test_padding.py).
FAMILIES = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat")
# Bytes. The filters of the positional convolution are kept while scoring if they take no more. Computed anew
# for each pass, in two threads, they took 20 MiB more at the peak (small model).
MAX_FILTER_BYTES = 2**24
# Scores of attention that are computed at once where no gradient is needed, so that they stay in the CPU's
# cache; but of at least so many queries, because fewer at a time take longer than all.
SCORES_AT_ONCE = 2**20
MIN_QUERIES = 64

# A bias that is added to the scores of a group: -> (rows, heads, longest, longest)
Bias = Callable[[LengthGroup], torch.Tensor]


def can_pack(config: Any) -> bool:
    """Whether the encoder of a transformers config can be run on a packed batch. A batch norm before the
    positional convolution (some HuBERTs) mixes utterances, so it cannot.
    """
    return config.model_type in FAMILIES and not getattr(config, "conv_pos_batch_norm", False)


class PositionalConv:
    """The positional convolution of an encoder, and its filters while they are cached.

    module: transformers' `encoder.pos_conv_embed`; gap: frames of zeros that it needs around each utterance.
    """

    def __init__(self, module: Any, gap: int):
        self.module = module
        self.gap = gap
        self._filters: list[torch.Tensor] = []

    def cache_filters(self, enabled: bool) -> None:
        """Keep the filters as the matrix products need them, for as long as no weight changes."""
        self._filters = block_filters(self.module.conv, MAX_FILTER_BYTES) if enabled else []

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(1, all frames + tail, channels) -> the same shape."""
        layout = current_layout()
        convolved = convolve_positions(
            hidden_states[0], self.module.conv, layout.spaced, layout.spaced_length, self._filters
        )
        return self.module.activation(convolved)[None]


# ------------------------------------------------------------------------------------------------------------
# attention, as transformers' AttentionInterface calls it


def attend_in_groups(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float = 1.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Self-attention of each utterance, in plain operations: the fastest on a CPU.

    Args:
        module: the attention module that calls.
        query, key, value: (1, heads, all frames + tail, channels of a head).
        attention_mask: None, because a packed batch has no padding.
        dropout: probability with which attention weights are zeroed.
        scaling: factor of the queries.

    Returns:
        (1, all frames + tail, channels), and None for the attention weights, which are not kept.
    """
    layout = current_layout()
    q, k, v = (_merge_heads(x) for x in (query, key, value))
    return _attention_of_groups(q * scaling, k, v, query.shape[1], layout, dropout)[None], None


def attend_fused(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float = 1.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """`attend_in_groups` by a fused kernel on a GPU, where one takes the dtype; see `varlen_attention.py`."""
    layout = current_layout()
    if query.device.type == "cpu":
        q, k, v = (_merge_heads(x) for x in (query, key, value))
        out = _attention_of_nested(q * scaling, k, v, query.shape[1], layout, dropout)
        return F.pad(out, (0, 0, 0, layout.tail))[None], None
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    attended = attend_varlen(q, k, v, layout.offsets, max(layout.longest, layout.tail), dropout, scaling)
    if attended is None:
        return attend_in_groups(module, query, key, value, attention_mask, dropout, scaling)
    return attended.flatten(1)[None], None


def attend_wavlm(
    module: Any, hidden_states: torch.Tensor, position_bias: torch.Tensor | None = None, **_: Any
) -> tuple[torch.Tensor, None, torch.Tensor]:
    """WavLM's attention, which adds a bias for each distance, gated by the query's frame (Chen et al. 2022).

    Args:
        module: the attention module.
        hidden_states: (1, all frames + tail, channels).
        position_bias: (heads, longest, longest); None in the first layer, which computes it.

    Returns:
        Hidden states of the same shape, None for the attention weights, and the position bias.
    """
    layout, heads = current_layout(), module.num_heads
    if position_bias is None:
        # the groups of a part of a pass are as long as those of the whole
        longest = layout.longest if layout.whole is None else max(layout.whole.frames)
        # filled up to what the kernel takes; on a CPU nothing is
        longest += -longest % KEY_MULTIPLE if hidden_states.is_cuda else 0
        position_bias = module.compute_bias(longest, longest)
        position_bias = position_bias.contiguous() if hidden_states.is_cuda else position_bias
    bias = position_bias
    projected = module.gru_rel_pos_linear(hidden_states[0].unflatten(1, (heads, -1)))
    a, b = torch.sigmoid(projected.unflatten(2, (2, 4)).sum(-1)).unbind(-1)
    gate = a * (b * module.gru_rel_pos_const[0, :, 0, 0] - 1.0) + 2.0

    def gated(group: LengthGroup) -> torch.Tensor:
        return split_heads(gate[group.frames], group, heads) * bias[:, : group.longest, : group.longest]

    # A view of its own: autograd sums the gradients of query, key and value before it adds those of the gate
    # and of the residual. Another order rounds otherwise, and a run would not resume bit for bit.
    hidden = hidden_states[0]
    query = module.q_proj(hidden)
    key = module.k_proj(hidden)
    value = module.v_proj(hidden)
    rate = module.dropout if module.training else 0.0
    if takes_efficient(query.device, query.dtype):
        q, k, v = (x.unflatten(1, (heads, -1)) for x in (query, key, value))
        out = attend_gated(q, k, v, gate, bias, layout.padded, rate, module.scaling).flatten(1)
    else:
        out = _attention_of_groups(query * module.scaling, key, value, heads, layout, rate, gated)
    return module.out_proj(out)[None], None, bias


# ------------------------------------------------------------------------------------------------------------
# the arithmetic


def _attention_of_groups(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    heads: int,
    layout: Layout,
    dropout_rate: float,
    bias: Bias | None = None,
) -> torch.Tensor:
    """Attention of each utterance over itself, (all frames + tail, channels) -> the same shape.

    The queries are scaled already. The tail comes out as zeros.
    """
    sizes = [sum(group.lengths) for group in layout.groups] + [layout.tail]
    parts = []
    for group, *own in zip(layout.groups, *(x.split(sizes) for x in (query, key, value)), strict=False):
        if not group.rows:  # all of them are in another part of the pass
            assert group.drawn
            skip_dropout(group.drawn.total * heads * group.longest**2, dropout_rate, query)
            continue
        q, k, v = (split_heads(x, group, heads) for x in own)
        of_group = None if bias is None else bias(group)
        attended = _attention(q, k, v, of_group, group.mask, dropout_rate, group.drawn)
        parts.append(merge_heads(attended, group))
    return torch.cat([*parts, parts[0].new_zeros(layout.tail, parts[0].shape[1])])


def _attention_of_nested(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    heads: int,
    layout: Layout,
    dropout_rate: float,
) -> torch.Tensor:
    """`_attention_of_groups` by torch's scaled dot product attention of nested tensors."""
    offsets = F.pad(torch.tensor(layout.frames).cumsum(0), (1, 0))

    def jagged(x: torch.Tensor) -> torch.Tensor:
        lengths: dict[str, Any] = {"min_seqlen": min(layout.frames), "max_seqlen": layout.longest}
        x = x[: layout.count].unflatten(1, (heads, -1))
        return torch.nested.nested_tensor_from_jagged(x, offsets, **lengths).transpose(1, 2)

    out = F.scaled_dot_product_attention(
        jagged(query), jagged(key), jagged(value), dropout_p=dropout_rate, scale=1.0
    )
    return out.transpose(1, 2).values().flatten(1)


def _merge_heads(x: torch.Tensor) -> torch.Tensor:
    """(1, heads, frames, channels of a head) -> (frames, channels): a view of the projection's output."""
    return x.transpose(1, 2).flatten(0, 1).flatten(1)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    dropout_rate: float,
    drawn: DrawnRows | None = None,
) -> torch.Tensor:
    """softmax(query @ key + bias + mask) @ value, in blocks of queries where no gradient is needed on a CPU.

    Args:
        query, key, value: (rows, heads, frames, channels of a head); the queries are scaled already.
        bias: (rows, heads, frames, frames), or None.
        mask: (rows, 1, 1, frames), minus infinity for padding, or None.
        dropout_rate: probability with which attention weights are zeroed.
        drawn: which rows these are of those that dropout is drawn for; None: all.
    """
    rows, heads, frames, _ = query.shape
    scores = rows * heads * frames * frames
    if scores <= SCORES_AT_ONCE or torch.is_grad_enabled() or query.device.type != "cpu":
        return _attention_at_once(query, key, value, bias, mask, dropout_rate, drawn)
    blocks = query.split(max(MIN_QUERIES, SCORES_AT_ONCE // (rows * heads * frames)), 2)
    biases = [bias] * len(blocks) if bias is None else bias.split(blocks[0].shape[2], 2)
    return torch.cat(
        [
            _attention_at_once(q, key, value, b, mask, dropout_rate, drawn)
            for q, b in zip(blocks, biases, strict=True)
        ],
        2,
    )


def _attention_at_once(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    dropout_rate: float,
    drawn: DrawnRows | None,
) -> torch.Tensor:
    """`_attention` without blocks."""
    scores = query @ key.transpose(2, 3)
    for term in (bias, mask):
        if term is not None:
            scores += term.to(scores.dtype)
    return dropout(torch.softmax(scores, -1), dropout_rate, True, drawn) @ value
