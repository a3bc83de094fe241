"""The group norm of all utterances at once, as a GPU computes it, against each utterance alone."""

import pytest
import torch
from transformers import Wav2Vec2Config
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2FeatureEncoder

from asr_exp.model.conv_frontend import SignalStatistics
from asr_exp.model.group_norm import batched_filters, normed_filters, run_group_norm_layer

LENGTHS = [4000, 961, 3200, 2559, 400]
STRIDE = 320  # of all layers
SHAPES = {"usual": (10, 5), "overlapping": (64, 16), "gapless": (8, 8)}


def layer_and_audio(shape: str, dtype: torch.dtype):
    torch.manual_seed(0)
    kernel, hop = SHAPES[shape]
    config = Wav2Vec2Config(
        conv_dim=[6, 6], conv_kernel=[kernel, 4], conv_stride=[hop, STRIDE // hop], num_feat_extract_layers=2
    )
    layer = Wav2Vec2FeatureEncoder(config).conv_layers[0].to(dtype)
    for one in layer.layer_norm.parameters():
        torch.nn.init.normal_(one, mean=1.0, std=0.3)
    clips = [torch.randn(n, dtype=dtype) * 10 ** (i - 2) + i for i, n in enumerate(LENGTHS)]
    clips[4] = torch.full_like(clips[4], 0.3)  # says nothing
    padded = [torch.nn.functional.pad(clip, (0, -len(clip) % STRIDE)) for clip in clips]
    flat = torch.cat([*padded, torch.zeros(2 * STRIDE + 7, dtype=dtype)])
    starts = [sum(map(len, padded[:i])) for i in range(len(padded))]
    return layer, flat, starts


@pytest.mark.parametrize("shape", SHAPES)
def test_the_filters_of_all_utterances_are_those_of_each(shape):
    layer, flat, starts = layer_and_audio(shape, torch.float64)
    together = batched_filters(layer, flat, starts, LENGTHS, None, STRIDE)
    alone = normed_filters(layer, flat, starts, LENGTHS, None, STRIDE)
    assert isinstance(alone, list) and len(alone) == len(together.weight) == len(LENGTHS)
    for i, (weight, bias) in enumerate(alone):
        assert torch.allclose(together.weight[i], weight, rtol=1e-12, atol=1e-12), i
        assert torch.allclose(together.bias[i], bias, rtol=1e-12, atol=1e-12 * bias.abs().max().item()), i


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("of_a_recording", [False, True])
@pytest.mark.parametrize("gradient", [False, True])
def test_the_layer_of_all_utterances_is_that_of_each(shape, of_a_recording, gradient):
    layer, flat, starts = layer_and_audio(shape, torch.float64)
    recording = None
    if of_a_recording:
        samples = (torch.randn(9000) * 3000).to(torch.int16).numpy()
        recording = SignalStatistics.of(samples, *SHAPES[shape]).windows
    with torch.set_grad_enabled(gradient):
        got, want = (
            run_group_norm_layer(layer, flat, starts, find(layer, flat, starts, LENGTHS, recording, STRIDE))
            for find in (batched_filters, normed_filters)
        )
    assert got.shape == want.shape and torch.allclose(got, want, atol=1e-10)
    if gradient:
        weights, inputs = torch.randn_like(got), (layer.conv.weight, *layer.layer_norm.parameters())
        ours, theirs = (torch.autograd.grad(out, inputs, weights) for out in (got, want))
        for one, other in zip(ours, theirs, strict=True):
            assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)
