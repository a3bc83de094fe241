"""The parts of a network that sees a batch laid end to end, each against the library's own on one utterance
at a time.
"""

import math

import pytest
import torch
from transformers import Wav2Vec2Config
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2FeatureEncoder

from asr_exp.model import layout as layout_module
from asr_exp.model import packed_encoder as packed
from asr_exp.model import varlen_attention
from asr_exp.model.conv_frontend import extract_features, frame_positions
from asr_exp.model.dropout import dropout
from asr_exp.model.layout import Layout
from asr_exp.model.positional_conv import block_filters, convolve_positions
from asr_exp.runtime import distributed as runtime
from asr_exp.runtime.precision import is_true_fp32

CPU = torch.device("cpu")
FRAMES = [7, 1, 12, 5]
USUAL = {"conv_dim": [8] * 7}
TINY = {
    "conv_dim": [4, 6, 8, 8],
    "conv_kernel": [64, 8, 4, 4],
    "conv_stride": [16, 5, 2, 2],
    "num_feat_extract_layers": 4,
}

# a frame is of 23 strides
FAR = {"conv_dim": [4, 4], "conv_kernel": [10, 90], "conv_stride": [5, 4], "num_feat_extract_layers": 2}


def layout(frames: list[int], gap: int = 0) -> Layout:
    return Layout(frames, gap, torch.zeros(sum(frames), dtype=torch.int64), CPU)


def test_a_layout_packs_and_unpacks():
    padded = torch.tensor([[1, 2, 3], [11, 0, 0], [21, 22, 0]])
    place = layout([3, 1, 2], gap=2)
    assert (place.count, place.tail) == (6, 10)  # filled up to 16
    assert place.pack(padded).tolist() == [1, 2, 3, 11, 21, 22] + 10 * [1]
    assert place.row.tolist() == [0, 0, 0, 1, 2, 2] + 10 * [0]
    # ..123..4..56..
    assert place.spaced.tolist() == [2, 3, 4, 7, 10, 11] + 10 * [0] and place.spaced_length == 14 + 10
    assert torch.equal(place.unpack(place.pack(padded)), padded)


def test_only_lengths_that_are_near_share_a_call(monkeypatch):
    monkeypatch.setitem(layout_module.MAX_PADDED_PAIRS, "cpu", 100)
    groups = layout([20, 20, 18, 11, 5, 5]).groups
    assert [(g.frames.start, g.frames.stop, g.rows, g.longest) for g in groups] == [
        (0, 58, 3, 20),
        (58, 79, 3, 11),
    ]
    assert [int(g.mask.isinf().sum()) for g in groups] == [2, 12]
    assert layout([5, 5]).groups[0].mask is None


@pytest.mark.parametrize("kernel", [16, 5, 4])
def test_positions_are_convolved_as_torch_does(kernel):
    torch.manual_seed(0)
    conv = torch.nn.Conv1d(12, 12, kernel, padding=kernel // 2, groups=3).double()
    x = torch.randn(sum(FRAMES), 12, dtype=torch.float64, requires_grad=True)
    place = layout(FRAMES, gap=kernel)
    tail = torch.randn(place.tail, 12, dtype=torch.float64)  # is heard by no utterance
    got = convolve_positions(torch.cat([x, tail]), conv, place.spaced, place.spaced_length)[: place.count]
    want = torch.cat([conv(part.T[None])[0, :, : len(part)].T for part in x.split(FRAMES)])
    assert torch.allclose(got, want, atol=1e-12)
    with torch.no_grad():
        spread = block_filters(conv, 10**9)
        kept = convolve_positions(torch.cat([x, tail]), conv, place.spaced, place.spaced_length, spread)[
            : place.count
        ]
    size = sum(matrix.nbytes for matrix in spread)
    assert (
        torch.allclose(kept, want, atol=1e-12)
        and block_filters(conv, size)
        and not block_filters(conv, size - 1)
    )
    weights = torch.randn_like(got)
    inputs = (x, conv.weight, conv.bias)
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, weights), torch.autograd.grad(want, inputs, weights), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("shape", [USUAL, TINY | {"conv_bias": True}], ids=["usual", "tiny"])
def test_features_are_those_of_transformers_front_end(norm, shape):
    torch.manual_seed(0)
    theirs = Wav2Vec2FeatureEncoder(Wav2Vec2Config(feat_extract_norm=norm, **shape)).double()
    for name, parameter in theirs.named_parameters():  # a trained norm is not the identity
        if "layer_norm" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    for first in range(900, 1600, 37):
        lengths = [first, 900, first + 319, 2000]
        audio = torch.nn.utils.rnn.pad_sequence(
            [torch.randn(n, dtype=torch.float64) + 0.5 for n in lengths], batch_first=True
        )
        alone = [theirs(row[None, :n])[0].T for row, n in zip(audio, lengths, strict=True)]
        places = frame_positions(theirs.conv_layers, lengths, [len(a) for a in alone])
        got, want = extract_features(theirs.conv_layers, audio, lengths, places), torch.cat(alone)
        assert torch.allclose(got, want, atol=1e-9)
    weights, parameters = torch.randn_like(got), list(theirs.parameters())
    if norm == "group" and "conv_bias" in shape:
        # which the norm cancels
        parameters = [p for p in parameters if p is not theirs.conv_layers[0].conv.bias]
    for ours, its in zip(
        torch.autograd.grad(got, parameters, weights),
        torch.autograd.grad(want, parameters, weights),
        strict=True,
    ):
        assert torch.allclose(ours, its, atol=1e-8)


@pytest.mark.parametrize("biased", [False, True])
def test_attention_in_blocks_is_attention(biased, monkeypatch):
    monkeypatch.setattr(packed, "SCORES_AT_ONCE", 3 * 2 * 100 * 30)  # of 30 queries
    monkeypatch.setattr(packed, "MIN_QUERIES", 7)
    calls, softmax = [], torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda x, dim: calls.append(x.shape) or softmax(x, dim))
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 3, 2, 100, 8, dtype=torch.float64)
    bias = torch.randn(3, 2, 100, 100, dtype=torch.float64) if biased else None
    mask = torch.zeros(3, 1, 1, 100, dtype=torch.float64)
    mask[1, ..., 60:] = -math.inf
    scores = torch.einsum("rhqc,rhkc->rhqk", query, key) + mask + (0 if bias is None else bias)
    want = torch.einsum("rhqk,rhkc->rhqc", softmax(scores, -1), value)
    with torch.no_grad():
        assert torch.allclose(packed._attention(query, key, value, bias, mask, 0.0), want, atol=1e-12)
    assert [shape[2] for shape in calls] == [30, 30, 30, 10]
    # for a gradient, whole
    assert (
        torch.allclose(packed._attention(query, key, value, bias, mask, 0.0), want, atol=1e-12)
        and len(calls) == 5
    )


@pytest.mark.parametrize("kernel", ["flash", "efficient"])
@pytest.mark.parametrize("size", [8, 9])
def test_the_varlen_kernels_are_given_each_utterance_alone(kernel, size, monkeypatch):
    """With kernels that follow their definition: heads are of a size that they take, and the tail is an
    utterance of its own.
    """
    given = {}

    def flash(q, k, v, starts, starts_k, longest, longest_k, rate, causal, return_mask, *, scale):
        assert starts is starts_k and starts.dtype == torch.int32 and (longest, causal) == (longest_k, False)
        given.update(channels=q.shape[-1], rate=rate, longest=longest, ends=starts.tolist())
        ends = starts.long()
        parts = [
            torch.softmax(torch.einsum("qhc,khc->hqk", q[a:b], k[a:b]) * scale, -1) @ v[a:b].transpose(0, 1)
            for a, b in zip(ends[:-1], ends[1:], strict=True)
        ]
        return torch.cat(parts, 1).transpose(0, 1), None

    def efficient(q, k, v, bias, starts, starts_k, *others, scale):
        *lengths, mask, for_gradient = others
        assert (bias, mask, for_gradient) == (None, 0, True) and len(q) == len(k) == len(v) == 1
        out, _ = flash(q[0], k[0], v[0], starts, starts_k, *lengths, False, False, scale=scale)
        return out[None], None

    monkeypatch.setattr(varlen_attention, "varlen_kernel", lambda *_: kernel)
    monkeypatch.setattr(
        torch.ops.aten, f"_{kernel}_attention_forward", {"flash": flash, "efficient": efficient}[kernel]
    )
    torch.manual_seed(0)
    place = layout(FRAMES)
    shape = (3, place.count + place.tail, 2, size)
    q, k, v = torch.randn(shape, dtype=torch.float64, requires_grad=True).unbind()
    out = varlen_attention.attend_varlen(q, k, v, place.offsets, max(FRAMES), 0.25, 0.3)
    assert given == {
        "channels": -(-size // 8) * 8,
        "rate": 0.25,
        "longest": 12,
        "ends": [0, 7, 8, 20, 25, 32],
    }
    monkeypatch.setattr(packed, "current_layout", lambda: place)
    heads = [x.transpose(0, 1)[None] for x in (q, k, v)]
    want, _ = packed.attend_in_groups(None, *heads, None, 0.0, 0.3)
    assert torch.allclose(out.flatten(1)[: place.count], want[0, : place.count], atol=1e-12)


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("shape", [USUAL, TINY | {"conv_bias": True}, FAR], ids=["usual", "tiny", "far"])
def test_an_utterance_heard_in_pieces_has_the_features_it_has_in_one(norm, shape, monkeypatch):
    monkeypatch.setattr("asr_exp.model.conv_frontend.FRAMES_AT_ONCE", 8)
    torch.manual_seed(0)
    theirs = Wav2Vec2FeatureEncoder(Wav2Vec2Config(feat_extract_norm=norm, **shape)).double()
    stride = math.prod(layer.conv.stride[0] for layer in theirs.conv_layers)
    for frames in (0, 5, 7.9, 8, 8.1, 8.5, 16, 16.3, 41.02):
        samples = 900 + round(frames * stride)
        audio = torch.randn(1, samples, dtype=torch.float64) + 0.5
        with torch.no_grad():
            alone = theirs(audio)[0].T
            got = extract_features(theirs.conv_layers, audio, [samples], torch.arange(len(alone)))
        assert got.shape == alone.shape and torch.allclose(got, alone, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout(dtype, rate):
    x = torch.full((500, 401), 2.0, dtype=dtype, requires_grad=True)
    torch.manual_seed(1)
    y = dropout(x, rate, training=True)
    dropped = (y == 0).float()
    spread = (rate * (1 - rate) / x.numel()) ** 0.5
    assert abs(dropped.mean() - rate) < 5 * spread
    # columns differ as chance has it
    assert dropped.mean(0).std() == pytest.approx((rate * (1 - rate) / 500) ** 0.5, rel=0.2)
    neighbours = ((dropped[:, 1:] * dropped[:, :-1]).mean() - rate**2).abs()
    assert neighbours < 6 * spread
    assert torch.allclose(
        y[y != 0], x.new_tensor(2 / (1 - rate)), rtol=1e-2 if dtype == torch.bfloat16 else 1e-4
    )
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert torch.equal(gradient, y.detach() / 2)
    torch.manual_seed(1)
    assert torch.equal(dropout(x, rate, training=True), y)
    assert not torch.equal(dropout(x, rate, training=True), y)


def test_dropout_that_does_nothing_or_all():
    x = torch.randn(33)
    assert dropout(x, 0.1, training=False) is x and dropout(x, 0.0, training=True) is x
    assert not dropout(x, 1.0, training=True).any()


def test_fp32_stays_fp32(monkeypatch):
    """oneDNN multiplies where its product is as exact as fp32 can be, and nowhere else."""
    with runtime.started("cpu", "fp32"):
        assert is_true_fp32()
    assert torch.get_float32_matmul_precision() == "highest"
    as_is = torch.Tensor.__matmul__

    def rounded(a, b):
        return as_is(a.bfloat16(), b.bfloat16()).float() if a.dtype == torch.float32 else as_is(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)  # what a CPU with matrix units may do
    assert not is_true_fp32()
    with runtime.started("cpu", "fp32"):
        assert torch.get_float32_matmul_precision() == "highest"
