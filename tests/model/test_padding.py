"""No utterance depends on its batch-mates (`exact`), and what transformers does to a padded batch is done to
the digit (`hf_compat`).
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from harness import NAMES

from asr_exp.data.batch import Batch
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.decoding.decoders import make_decoder
from asr_exp.model import layout
from asr_exp.model.loading import load_backbone
from asr_exp.model.loss import ctc_losses
from asr_exp.model.masking import build_masks
from asr_exp.model.model_config import ModelSettings
from asr_exp.model.packed_encoder import FAMILIES
from asr_exp.model.recogniser import Recogniser
from asr_exp.model.saving import save_pretrained
from asr_exp.runtime.threads import side_by_side

# 25, 49, 16, 38, 26 frames of 20 ms: odd and even, for SEW's squeezing by two
LENGTHS = [8240, 16000, 5200, 12345, 8560]
TOKENIZER = Tokenizer.build(["the quick brown fox jumps over the lazy dog"])
LABELS = [[1, 2, 2, 5], [7, 8, 9, 1, 1, 3], [4], [6, 2, 0], [11, 12]]
MASKS = {
    "mask_time_prob": 0.4,
    "mask_time_length": 2,
    "mask_feature_prob": 0.2,
    "mask_feature_length": 4,
    "dropout": 0.0,
}
DROPS_LAYER_1 = 2  # a step that does so, of two layers at a layerdrop of 0.5
NOTHING = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "dropout": 0.0, "layerdrop": 0.0}


def clips() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [(rng.standard_normal(n) * 3000 * np.hanning(n)).astype(np.int16) for n in LENGTHS]


def batch_of(indices: list[int], model: Recogniser) -> Batch:
    """The batch of these clips, with the masks that step 3 draws for them."""
    audio = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(clips()[i]) for i in indices], batch_first=True)
    masks, lengths = build_masks(model.info, seed=5), [LENGTHS[i] for i in indices]
    drawn = masks.draw(3, np.array(indices), lengths) if masks else (None, None)
    labels = [LABELS[i] for i in indices]
    return Batch(
        np.array(indices), audio, lengths, torch.tensor(sum(labels, [])), [len(row) for row in labels], *drawn
    )


def outputs(model: Recogniser, batch: Batch) -> list[tuple[torch.Tensor, float, str]]:
    """Logits, loss and transcript of each utterance of a batch."""
    emissions = model(batch)
    losses = ctc_losses(emissions, batch.labels, batch.label_lengths, TOKENIZER.blank, "mean").tolist()
    texts = make_decoder("greedy", TOKENIZER, {})(emissions.logits, emissions.frames)
    return list(
        zip(
            (row[:n] for row, n in zip(emissions.logits, emissions.frames, strict=True)),
            losses,
            texts,
            strict=True,
        )
    )


def load(folder, padding="exact", **how) -> Recogniser:
    torch.manual_seed(7)
    model = Recogniser(
        *load_backbone(ModelSettings(str(folder), **how), len(TOKENIZER), TOKENIZER.blank), padding
    )
    with torch.no_grad():
        model.network.lm_head.weight.mul_(20)  # so that something other than one label wins
    return model


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got - want).abs().max() / want.abs().max()).item()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
@torch.no_grad()
def test_an_utterance_alone_and_among_longer_ones(backbone, name, training):
    model = load(backbone(name), augment={**MASKS, "layerdrop": 0.5 if training else 0.0}).train(training)
    for step in (1, 2, 3) if training else (1,):
        model.drop_layers(0, step)
        together = outputs(model, batch_of([0, 1, 2, 3, 4], model))
        for i, (logits, loss, text) in enumerate(together):
            for mates in ([i], [i, 1], [1, i]):
                alone, loss_alone, text_alone = outputs(model, batch_of(mates, model))[mates.index(i)]
                assert alone.shape == logits.shape
                assert relative(logits, alone) < 1e-5, (i, mates)
                assert loss == pytest.approx(loss_alone, rel=1e-5)
                assert text == text_alone
        assert len({text for *_, text in together}) > 2 and all(
            logits.std(0).max() > 1e-2 for logits, *_ in together
        )


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_passes_side_by_side_do_not_mix(backbone, name):
    model = load(backbone(name)).eval()
    heard = torch.inference_mode()(
        lambda indices: [logits for logits, *_ in outputs(model, batch_of(indices, model))]
    )
    asked = [[0, 1], [2], [3, 4, 1], [1, 2, 0], [4]] * 4
    for indices, found in zip(asked, side_by_side(asked, heard, 2), strict=True):
        for got, want in zip(found, heard(indices), strict=True):
            assert got.shape == want.shape and relative(got, want) < 1e-5


def reference(folder: Path, step: int | None, augment: dict) -> Recogniser:
    """transformers' own network with the weights of `load`; in training (step) without the layer that
    `DROPS_LAYER_1` drops.
    """
    model = load(folder, "transformers", augment={**augment, "layerdrop": 0.0}).train(step is not None)
    if step is not None:
        model.backbone.encoder.layers = model.backbone.encoder.layers[:1]
    return model


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(FAMILIES)])
@pytest.mark.parametrize(
    ("attention", "pairs"), [("eager", 0), ("eager", 2**13), ("sdpa", 0)], ids=["alone", "in groups", "fused"]
)
@pytest.mark.parametrize("step", [None, DROPS_LAYER_1], ids=["eval", "training"])
def test_a_packed_batch_is_transformers_one_utterance_at_a_time(
    backbone, monkeypatch, name, attention, step, pairs
):
    """Losses, logits and gradients, with time masks and dropped layers in training."""
    monkeypatch.setitem(layout.MAX_PADDED_PAIRS, "cpu", pairs)
    masks = {**MASKS, "mask_feature_prob": 0.0, "layerdrop": 0.5} if step else NOTHING
    model = load(backbone(name), augment=masks, attention=attention).train(step is not None)
    theirs = reference(backbone(name), step, masks)
    if step is not None:
        model.drop_layers(0, step)
        assert model.dropped_layers == {1}
    batch = batch_of([0, 1, 2, 3, 4], model)
    emissions = model(batch)
    losses = ctc_losses(emissions, batch.labels, batch.label_lengths, TOKENIZER.blank, "mean")
    losses.sum().backward()
    for i, frames in enumerate(emissions.frames):
        one = batch_of([i], model)
        alone = theirs(one)
        loss = ctc_losses(alone, one.labels, one.label_lengths, TOKENIZER.blank, "mean")[0]
        loss.backward()
        assert relative(emissions.logits[i, :frames], alone.logits[0, :frames]) < 1e-5
        assert losses[i].item() == pytest.approx(loss.item(), rel=1e-5)
    ours = dict(model.network.named_parameters())
    moved = {n: p.grad for n, p in theirs.network.named_parameters() if p.grad is not None}
    assert {n for n, p in ours.items() if p.grad is not None} == set(moved)
    for n, gradient in moved.items():
        assert (ours[n].grad - gradient).norm() < 1e-4 * gradient.norm() + 1e-6, n


@pytest.mark.parametrize("name", NAMES)
def test_masks_change_what_they_cover(backbone, name):
    model = load(backbone(name), augment={**MASKS, "layerdrop": 0.0}).train()
    masked = outputs(model, batch_of([0, 1], model))
    bare = outputs(
        load(backbone(name), augment=NOTHING).train(), batch_of([0, 1], load(backbone(name), augment=NOTHING))
    )
    assert all(relative(a, b) > 1e-3 for (a, *_), (b, *_) in zip(masked, bare, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_a_batch_is_the_sum_of_its_utterances(backbone, name):
    model = load(backbone(name), augment=MASKS).train()
    model.drop_layers(0, 2)

    def gradient(*batches: list[int]) -> torch.Tensor:
        model.zero_grad()
        for indices in batches:
            batch = batch_of(indices, model)
            ctc_losses(
                model(batch), batch.labels, batch.label_lengths, TOKENIZER.blank, "mean"
            ).sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    assert relative(gradient([0, 1, 2, 3, 4]), gradient([4], [2, 0], [1], [3])) < 5e-5


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_frames(backbone, name):
    model = load(backbone(name), augment=NOTHING).eval()
    for samples in [*range(395, 405), *range(715, 725), *LENGTHS, 16001, 16079, 16080]:
        theirs = int(model.network._get_feat_extract_output_lengths(torch.tensor(samples)))
        squeezed_away = name.startswith("sew") and theirs == 1
        assert model.frames(samples) == (0 if squeezed_away else max(0, theirs))
        if model.frames(samples):
            assert model(silence(samples)).logits.shape[1] == theirs


def silence(samples: int) -> Batch:
    return Batch(
        np.zeros(1, dtype=int), torch.zeros(1, samples, dtype=torch.int16), [samples], torch.tensor([1]), [1]
    )


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_shortest_clips_have_an_output(backbone, name):
    """What has a frame is scored, and long enough it is trained on: neither may fail, silent or not."""
    model = load(backbone(name), augment={**MASKS, "layerdrop": 0.0})
    for frames in range(1, 6):
        clip = silence(400 + 320 * (frames - 1))
        if model.frames(clip.lengths[0]):
            for training in (False, True):
                logits = model.train(training)(clip).logits
                assert logits.shape[1] == frames and logits.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("padding", ["exact", "hf_compat", "transformers"])
@torch.no_grad()
def test_transformers_own_logits(backbone, tmp_path, name, padding):
    """One utterance, through our model and through an unmodified one loaded from what we saved."""
    model = load(backbone(name), augment=NOTHING, padding=padding).eval()
    save_pretrained(model, tmp_path)
    theirs = transformers.AutoModelForCTC.from_pretrained(tmp_path).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    for i, clip in enumerate(clips()):
        inputs = extractor(clip / np.float32(32768), sampling_rate=16000, return_tensors="pt")
        assert relative(outputs(model, batch_of([i], model))[0][0], theirs(**inputs).logits[0]) < 1e-5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
@pytest.mark.parametrize("padding", ["hf_compat", "transformers"])
@torch.no_grad()
def test_hf_compat_is_transformers_own_loss(backbone, tmp_path, name, training, padding):
    model = load(backbone(name), augment=NOTHING, padding=padding).train(training)
    save_pretrained(model, tmp_path)
    theirs = transformers.AutoModelForCTC.from_pretrained(tmp_path, ctc_loss_reduction="mean").train(training)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    # As their recipes do it: each clip through the extractor, the batch padded by it.
    features = [
        {"input_values": extractor(clip / np.float32(32768), sampling_rate=16000).input_values[0]}
        for clip in clips()
    ]
    labels = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in LABELS], batch_first=True, padding_value=-100
    )
    want = theirs(**extractor.pad(features, padding=True, return_tensors="pt"), labels=labels).loss.item()
    batch = batch_of([0, 1, 2, 3, 4], model)
    got = ctc_losses(model(batch), batch.labels, batch.label_lengths, TOKENIZER.blank, "mean").mean().item()
    assert got == pytest.approx(want, rel=1e-5)
    if name.endswith("group"):  # the padding is seen, so what an utterance has alone is another number
        exact = load(backbone(name), augment=NOTHING).train(training)
        alone = (
            ctc_losses(exact(batch), batch.labels, batch.label_lengths, TOKENIZER.blank, "mean").mean().item()
        )
        assert alone != pytest.approx(want, rel=1e-5)


@torch.no_grad()
def test_layerdrop_survives_saving(backbone, tmp_path):
    model = load(backbone("wav2vec2-layer"), augment={"layerdrop": 0.25})
    save_pretrained(model, tmp_path)
    assert transformers.AutoConfig.from_pretrained(tmp_path).layerdrop == 0.25
    assert model.network.config.layerdrop == 0.0
    plain = load(backbone("wav2vec2-layer"), "transformers", augment={"layerdrop": 0.25})
    save_pretrained(plain, tmp_path)
    assert transformers.AutoConfig.from_pretrained(tmp_path).layerdrop == 0.25
    assert plain.network.config.layerdrop == 0.25
