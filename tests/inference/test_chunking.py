"""Long recordings in chunks: which, where their seams are, and that what local layers make of the chunks is
what they make of the whole.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from harness import NAMES

from asr_exp.data.batch import Batch
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.decoding.decoders import make_decoder
from asr_exp.inference.chunking import Chunking, at_pauses, joined, seam, spans
from asr_exp.inference.transcriber import Transcriber
from asr_exp.model.conv_frontend import SignalStatistics
from asr_exp.model.loading import load_backbone
from asr_exp.model.model_config import ModelSettings
from asr_exp.model.recogniser import Recogniser

TOKENIZER = Tokenizer.build(["the quick brown fox jumps over the lazy dog"])
BLANK = TOKENIZER.blank


@pytest.mark.parametrize(
    ("frames", "length", "overlap", "multiple"),
    [
        (1, 10, 4, 1),
        (10, 10, 4, 1),
        (11, 10, 4, 1),
        (100, 10, 4, 1),
        (101, 10, 5, 2),
        (103, 11, 4, 2),
        (1499, 100, 50, 3),
    ],
)
def test_chunks_cover_every_frame_and_overlap(frames, length, overlap, multiple):
    found = spans(frames, length, overlap, multiple)
    assert found[0][0] == 0 and found[-1][1] == frames
    assert all(start % multiple == 0 and 0 < end - start <= length for start, end in found)
    assert all(
        before[1] - after[0] >= overlap and after[0] > before[0]
        for before, after in zip(found, found[1:], strict=False)
    )
    # the last has as much context as the others
    assert len(found) == 1 or found[-1][1] - found[-1][0] > length - multiple


def emissions(labels: list[int], sure: float = 0.9) -> torch.Tensor:
    probabilities = torch.full((len(labels), len(TOKENIZER)), (1 - sure) / (len(TOKENIZER) - 1))
    probabilities[torch.arange(len(labels)), torch.tensor(labels)] = sure
    return probabilities.log()


def test_a_seam_is_where_both_chunks_are_silent():
    left = emissions([1, 1, 2, 2, 3, 3, 4, 4] + [BLANK] * 8 + [5, 5, 6, 6, 7, 7, 8, 8])
    right = emissions([9, 9, 9, 9, 3, 3, 4, 4] + [BLANK] * 8 + [5, 5, 6, 6, 7, 7, 9, 9])
    assert 10 <= seam(left, right, BLANK) <= 13


@pytest.mark.parametrize("peak", range(24))
def test_a_seam_is_in_the_middle_half(peak):
    """Silence is surest at `peak` and fades from there on: the seam is as near to it as frames 6 to 17
    come."""
    blank = 0.9 - 0.03 * (torch.arange(24) - peak).abs()
    both = torch.stack([blank, 1 - blank], 1).log()
    assert seam(both, both, 0) == min(max(peak, 6), 17)


def of_two(blanks: list[float]) -> torch.Tensor:
    """Log probabilities of a vocabulary of two, of which the blank, 0, has these probabilities."""
    return torch.tensor([[blank, 1 - blank] for blank in blanks]).log()


def test_a_seam_is_where_both_chunks_are_sure_and_agree():
    """By hand: 0.8 - (0.1 + 0.1) is less than 0.65 - 0; the surest of both, or without the 0.2, is more."""
    left, right = of_two([0.9] * 20 + [0.65] * 20), of_two([0.8] * 20 + [0.65] * 20)
    assert 23 <= seam(left, right, 0) <= 29 and 23 <= seam(right, left, 0) <= 29


def test_a_seam_is_in_a_silence_not_at_a_frame_of_it():
    """Seven frames of 0.8 against one of 0.99 among others of 0.3."""
    both = of_two([0.3] * 12 + [0.99] + [0.3] * 7 + [0.8] * 7 + [0.3] * 13)
    assert seam(both, both, 0) == 23


def test_chunks_that_agree_are_joined_to_the_whole():
    rng = np.random.default_rng(0)
    whole = emissions(rng.integers(0, len(TOKENIZER), 1000).tolist())
    for length, overlap in ((100, 30), (64, 32), (999, 5), (1000, 10)):
        chunks = ((start, whole[start:end]) for start, end in spans(1000, length, overlap))
        pieces = list(joined(chunks, BLANK))
        assert torch.equal(torch.cat(pieces), whole)
    assert not list(joined(iter([]), BLANK))


def test_pieces_end_in_pauses():
    labels = ([1, 2, 3] * 10 + [BLANK] * 6 + [4, 5] * 5 + [BLANK] * 2) * 20
    whole = emissions(labels)
    pieces = list(at_pauses(whole.split(37), 60, [BLANK]))
    assert torch.equal(torch.cat(pieces), whole) and max(map(len, pieces)) <= 60
    assert all(
        piece[-1].argmax() == BLANK and after[0].argmax() == BLANK
        for piece, after in zip(pieces, pieces[1:], strict=False)
    )
    twice = emissions([1] * 40 + [BLANK] * 4 + [1] * 4 + [BLANK] * 4 + [1] * 20)
    assert [len(piece) for piece in at_pauses([twice], 60, [BLANK])] == [42, 30]  # of two as long the first
    endless = emissions([1, 2] * 100)
    assert [len(piece) for piece in at_pauses([endless], 60, [BLANK])] == [60, 60, 60, 20]  # cut all the same


def test_moments_are_those_of_what_the_convolution_sees(monkeypatch):
    rng = np.random.default_rng(0)
    samples = (rng.standard_normal(20011) * 3000 + 500).clip(-32768, 32767).astype(np.int16)
    monkeypatch.setattr("asr_exp.model.conv_frontend.SAMPLES_AT_ONCE", 1000)
    moments = SignalStatistics.of(samples, 10, 5)
    x = samples / 32768
    windows = np.stack([x[i : i + 10] for i in range(0, len(x) - 9, 5)])
    assert moments.mean == pytest.approx(x.mean()) and moments.variance == pytest.approx(x.var())
    np.testing.assert_allclose(moments.window_mean, windows.mean(0))
    np.testing.assert_allclose(moments.window_covariance, np.cov(windows.T, bias=True))
    scaled = moments.normalised(2.0)
    np.testing.assert_allclose(scaled.window_mean, ((windows - x.mean()) / 2).mean(0), atol=1e-12)
    np.testing.assert_allclose(scaled.window_covariance, np.cov(windows.T / 2, bias=True))


def transcriber(folder, chunking: Chunking, local: bool, **extractor) -> Transcriber:
    """A recogniser with random weights; local: its attention says nothing, so that a frame depends on what is
    near it alone.
    """
    torch.manual_seed(7)
    network, features = load_backbone(ModelSettings(str(folder)), len(TOKENIZER), BLANK)
    for name, value in extractor.items():
        setattr(features, name, value)
    with torch.no_grad():
        network.lm_head.weight.mul_(20)
        network.lm_head.bias[TOKENIZER.unknown] = -100.0  # what is written [UNK] cannot be aligned
        for name, parameter in network.named_parameters():
            if local and ("attention.out_proj" in name or "attention.output.dense" in name):
                parameter.zero_()
    return Transcriber(
        Recogniser(network, features),
        TOKENIZER,
        make_decoder("greedy", TOKENIZER, {}),
        torch.device("cpu"),
        chunking=chunking,
    )


def recording(seconds: float) -> np.ndarray:
    """Noise that grows louder and softer, with an offset: its parts have other means and variances than the
    whole.
    """
    rng, samples = np.random.default_rng(3), round(seconds * 16000)
    loud = 100 + 3000 * (np.linspace(0, 3, samples) % 1)
    return (rng.standard_normal(samples) * loud + 300).clip(-32768, 32767).astype(np.int16)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("normalised", [True, False])
def test_chunks_are_heard_as_parts_of_the_whole(backbone, name, normalised):
    """Every family's front end, whose norm may run over the whole recording, and everything else but
    attention.
    """
    clip = recording(13.337)
    # there it counts layers
    folder = backbone(name, num_conv_pos_embeddings=3) if name.startswith("data2vec") else backbone(name)
    whole = transcriber(folder, Chunking(whole=100), True, do_normalize=normalised)
    cut = transcriber(folder, Chunking(whole=1, length=8, overlap=4), True, do_normalize=normalised)
    (want,), (got,) = whole.emissions([clip]), cut.emissions([clip])
    assert got.shape == want.shape == (whole.model.frames(len(clip)), len(TOKENIZER))
    assert (got.exp() - want.exp()).abs().max() < 1e-3
    assert whole([clip])[0].text == cut([clip])[0].text != ""


@torch.inference_mode()
def test_a_piece_alone_would_be_heard_otherwise(backbone):
    """The same without the moments of the whole: they matter."""
    one = transcriber(backbone("wav2vec2-group"), Chunking(), True)
    clip = recording(9)
    piece = Batch(np.zeros(1, int), torch.from_numpy(clip[None, 32000:64000]), [32000], torch.empty(0), [0])
    alone, part = one.model(piece).logits, one.model(piece, one.model.signal_statistics(clip)).logits
    assert (alone.softmax(-1) - part.softmax(-1)).abs().max() > 0.05


def test_seconds_heard_add_up(backbone):
    one = transcriber(backbone("wav2vec2-layer"), Chunking(whole=4, length=3, overlap=1), False)
    one.device_seconds = 6.0
    heard: list[float] = []
    clips = [recording(2.5), recording(11), recording(1.25)]
    one(clips, heard.append)
    assert sum(heard) == pytest.approx(14.75) and len(heard) > 4


def test_several_threads_use_one_transcriber(backbone):
    """What a server does: each gets what it gets alone, though the network keeps what it is at."""
    one = transcriber(backbone("wavlm-group"), Chunking(whole=4, length=3, overlap=1), False)
    clips = [recording(seconds)[offset:] for offset, seconds in enumerate((1.0, 5.0, 2.2, 0.7, 4.5, 3.1))]
    alone = [one([clip])[0] for clip in clips]
    with ThreadPoolExecutor(6) as pool:
        assert [found for (found,) in pool.map(lambda clip: one([clip]), clips)] == alone
    assert len({found.text for found in alone}) == 6


class Spaced:
    """A decoder of its own kind, so that a long recording comes to it in pieces."""

    def __init__(self, greedy):
        self.greedy, self.given = greedy, []

    def __call__(self, logits, frames):
        self.given += frames
        return self.greedy(logits, frames)


def test_another_decoder_gets_long_recordings_piece_by_piece(backbone, monkeypatch):
    monkeypatch.setattr("asr_exp.inference.transcriber.MAX_DECODER_SECONDS", 2.0)
    one = transcriber(backbone("wav2vec2-layer"), Chunking(whole=4, length=3, overlap=1), True)
    clip = recording(12)
    (whole,) = one([clip])
    one.decoder = spaced = Spaced(one.decoder)
    (pieces,) = one([clip])
    assert (
        sum(spaced.given) == one.model.frames(len(clip))
        and max(spaced.given) <= 100
        and len(spaced.given) > 6
    )
    assert pieces.text.replace(" ", "") == whole.text.replace(" ", "")
    assert [w.start for w in pieces.words] == sorted(w.start for w in pieces.words) and pieces.words[
        -1
    ].end <= 12
