"""WavLM's attention as a GPU computes it, with kernels that follow their definition in double precision."""

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from asr_exp.model import layout as layout_module
from asr_exp.model import packed_encoder as packed
from asr_exp.model.attention_heads import split_heads
from asr_exp.model.gated_attention import attend_gated
from asr_exp.model.layout import Layout, LengthGroup

FRAMES = [20, 20, 18, 11, 5, 5, 3]
HEADS = 2


def scores_to_output(q, k, v, bias, scale):
    scores = torch.einsum("rqhc,rkhc->rhqk", q, k) * scale + bias
    weights = torch.softmax(scores, -1)
    return torch.einsum("rhqk,rkhc->rqhc", weights, v), torch.logsumexp(scores, -1)


def efficient_forward(q, k, v, bias, starts_q, starts_k, longest_q, longest_k, rate, mask, keep, *, scale):
    assert (starts_q, starts_k, longest_q, longest_k, rate, mask, keep) == (None,) * 4 + (0.25, 0, True)
    assert bias.stride(-1) == 1 and all(step % 8 == 0 for step in bias.stride()[:-1])
    out, logsumexp = scores_to_output(q, k, v, bias, scale)
    return out, logsumexp, torch.tensor(1), torch.tensor(2), q.shape[1], k.shape[1]


def efficient_backward(gradient, q, k, v, bias, out, *others, scale):
    *lengths, longest_q, longest_k, logsumexp, rate, seed, offset, mask, with_bias = others
    assert lengths == [None, None] and longest_q == longest_k == q.shape[1]
    assert (rate, int(seed), int(offset), mask, with_bias) == (0.25, 1, 2, 0, True)
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in (q, k, v, bias)]
        again, expected = scores_to_output(*inputs, scale)
        assert torch.equal(again, out) and torch.equal(expected, logsumexp)
        return torch.autograd.grad(again, inputs, gradient)


@pytest.fixture
def kernels(monkeypatch):
    monkeypatch.setattr(torch.ops.aten, "_efficient_attention_forward", efficient_forward)
    monkeypatch.setattr(torch.ops.aten, "_efficient_attention_backward", efficient_backward)
    monkeypatch.setitem(layout_module.MAX_PADDED_PAIRS, "cpu", 100)


def test_padded_groups(monkeypatch):
    monkeypatch.setitem(layout_module.MAX_PADDED_PAIRS, "cpu", 10)
    padded = Layout([4, 3, 1], 0, torch.zeros(8, dtype=torch.int64), torch.device("cpu")).padded
    assert padded.shapes == [(2, 4), (1, 1)] and padded.count == 8
    assert padded.frames.tolist() == [0, 1, 2, 3, 4, 5, 6, 4, 7]
    assert padded.cells.tolist() == [0, 1, 2, 3, 4, 5, 6, 8] + 8 * [9]
    assert padded.outside.isinf().nonzero()[:, 0].tolist() == [7] and padded.outside.sum() < 0


@pytest.mark.parametrize("size", [8, 6])
def test_gated_attention_is_that_of_groups(kernels, size):
    """Outputs and gradients, against the plain operations that a CPU takes."""
    torch.manual_seed(0)
    place = Layout(FRAMES, 0, torch.zeros(sum(FRAMES), dtype=torch.int64), torch.device("cpu"))
    assert place.padded.shapes == [(3, 20), (3, 11), (1, 3)] and place.tail
    frames = place.count + place.tail
    q, k, v = torch.randn(3, frames, HEADS, size, dtype=torch.float64).unbind()
    gate = torch.rand(frames, HEADS, dtype=torch.float64)
    bias = torch.randn(HEADS, 24, 24, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (q, k, v, gate, bias)]

    def term(group: LengthGroup) -> torch.Tensor:
        return split_heads(gate[group.frames], group, HEADS) * bias[:, : group.longest, : group.longest]

    got = attend_gated(*inputs, place.padded, 0.25, 0.3)
    flat = [x.flatten(1) for x in (q * 0.3, k, v)]
    want = packed._attention_of_groups(*flat, HEADS, place, 0.0, term)[: place.count]
    assert torch.allclose(got[: place.count].flatten(1), want, atol=1e-12)
    assert not got[place.count :].any()
    weights = torch.randn_like(want)
    ours = torch.autograd.grad(got[: place.count].flatten(1), inputs, weights)
    for one, other in zip(ours, torch.autograd.grad(want, inputs, weights), strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_flex_attention_agrees(request):
    """Another library's way to add a gated bias: torch's, which is slow where it is not compiled."""
    torch.manual_seed(0)
    place = Layout([9], 0, torch.zeros(9, dtype=torch.int64), torch.device("cpu"))
    q, k, v = torch.randn(3, 16, HEADS, 8, dtype=torch.float64).unbind()
    gate = torch.rand(16, HEADS, dtype=torch.float64)
    bias = torch.randn(HEADS, 16, 16, dtype=torch.float64)
    heads = [x[:9].transpose(0, 1)[None] for x in (q, k, v)]
    want = flex_attention(*heads, lambda score, b, h, i, j: score + gate[i, h] * bias[h, i, j], scale=0.3)
    request.getfixturevalue("kernels")  # only now: torch wants its own while it loads flex attention
    got = attend_gated(q, k, v, gate, bias, place.padded, 0.25, 0.3)[:9]
    assert torch.allclose(got, want[0].transpose(0, 1), atol=1e-12)
