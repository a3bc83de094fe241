"""A forward pass that does not fit is made in halves, and gives what it would have given."""

import numpy as np
import pytest
import torch
import transformers
from harness import settings

from asr_exp.core.errors import UserError
from asr_exp.data.batch import Batch
from asr_exp.model.forward_in_parts import forward_in_parts
from asr_exp.model.recogniser import Recogniser

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model("wav2vec2", **settings("wav2vec2", "group"))
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False)
    return Recogniser(transformers.AutoModelForCTC.from_config(config), extractor).eval()


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    lengths = [9000, 8000, 7000, 3000, 1000]
    audio = torch.zeros(5, 9000, dtype=torch.int16)
    for row, n in zip(audio, lengths, strict=True):
        row[:n] = torch.from_numpy(rng.integers(-3000, 3000, n).astype(np.int16))
    return Batch(np.arange(5), audio, lengths, torch.arange(10), [1, 2, 3, 4, 0])


def no_room(model, monkeypatch, samples):
    passes, forward = [], model.forward

    def limited(batch, recording=None):
        if batch.samples > samples:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        passes.append(len(batch))
        return forward(batch, recording)

    monkeypatch.setattr(model, "forward", limited)
    return passes


@torch.inference_mode()
def test_halves_give_what_the_whole_gives(model, batch, monkeypatch):
    whole = model(batch)
    passes = no_room(model, monkeypatch, 10_000)
    parts = forward_in_parts(model, batch, CPU)
    assert passes == [1, 1, 1, 2] and parts.frames == whole.frames
    for row, n in enumerate(whole.frames):
        torch.testing.assert_close(parts.logits[row, :n], whole.logits[row, :n], rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_a_row_that_does_not_fit_alone(model, batch, monkeypatch):
    no_room(model, monkeypatch, 8500)
    with pytest.raises(UserError, match="1 s of audio do not fit into the memory of cpu at once"):
        forward_in_parts(model, batch, CPU)


def test_rows_of_a_batch(batch):
    part = batch.rows(1, 4).rows(1, 3)
    assert part.lengths == [7000, 3000] and part.labels.tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert part.indices.tolist() == [2, 3] and torch.equal(part.audio, batch.audio[2:4])
    assert part.part.first == 2 and part.part.lengths == batch.lengths
    assert batch.rows(0, 5) is batch
