"""Pictures of layers: the frames of the utterance alone, as transformers gives them, and every layer."""

import numpy as np
import pytest
import torch
from harness import save_backbone

from asr_exp.commands.report.utterance_figures import draw_layers, layer_features, pooled_frames
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.decoding.decoders import make_decoder
from asr_exp.inference.chunking import Chunking
from asr_exp.inference.transcriber import Transcriber
from asr_exp.model.loading import load_backbone
from asr_exp.model.model_config import ModelSettings
from asr_exp.model.recogniser import Recogniser

TOKENIZER = Tokenizer.build(["ba di go"])


def transcriber_of(folder, kind, norm):
    network, extractor = load_backbone(
        ModelSettings(str(save_backbone(kind, norm, folder))), len(TOKENIZER), TOKENIZER.blank
    )
    greedy = make_decoder("greedy", TOKENIZER, {})
    return Transcriber(
        Recogniser(network, extractor), TOKENIZER, greedy, torch.device("cpu"), 2.0, Chunking(6.0, 4.0, 1.0)
    )


@pytest.mark.parametrize("samples", [16000, 17000, 30011])
@pytest.mark.parametrize(
    ("kind", "norm"), [("wav2vec2", "layer"), ("hubert", "group"), ("wavlm", "layer"), ("sew", "group")]
)
def test_the_features_of_layers_are_transformers_and_have_no_padding(tmp_path, kind, norm, samples):
    transcriber = transcriber_of(tmp_path, kind, norm)
    clip = (np.random.default_rng(0).standard_normal(samples) * 3000).astype(np.int16)
    features = layer_features(transcriber, clip)
    frames, pooled = transcriber.model.frames(samples), pooled_frames(transcriber)
    assert len(features) == 2 and pooled == (2 if kind == "sew" else 1)
    assert {len(one) for one in features} <= {frames // pooled, -(-frames // pooled)}
    if kind != "sew":
        plain = type(transcriber.model.backbone).from_pretrained(tmp_path).eval()
        audio = torch.from_numpy(clip / 32768.0).float()[None]
        if transcriber.model.extractor.do_normalize:
            audio = (audio - audio.mean()) / (audio.var(correction=0) + 1e-7) ** 0.5
        kept = []
        plain.encoder.layers[0].register_forward_hook(
            lambda _, __, out: kept.append(out[0] if isinstance(out, tuple) else out)
        )
        with torch.inference_mode():
            plain(audio)
        expected = kept[0].reshape(-1, kept[0].shape[-1]).numpy()
        assert features[0].shape == expected.shape
        assert np.abs(features[0] - expected).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("count", [1, 2, 12, 13, 24, 48])
def test_every_layer_is_drawn_once_with_its_number(count):
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    features = [np.random.default_rng(i).standard_normal((50, 8 + i)) for i in range(count)]
    figure = draw_layers(features, 0.02)
    drawn = [one for one in figure.axes if one.images and one.get_visible()]
    layers = {one.get_ylabel(): one for one in drawn}
    assert sorted(layers) == sorted(f"layer {number}" for number in range(1, count + 1))
    for number in range(count):
        (image,) = layers[f"layer {number + 1}"].images
        assert image.get_array().shape == (8 + number, 50) and image.get_extent()[:2] == [0, 1.0]
    assert figure.get_size_inches()[1] <= 12  # it fits a page
    empty = [one for one in figure.axes if not one.images]
    assert not any(one.get_visible() for one in empty)
