"""checkpoints/best in a bare transformers pipeline gives hypotheses.test.jsonl, character for character, for
every family.
"""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
import transformers
from harness import NAMES, QUIET, lines, losses, make_corpus, result, run, write_manifest

STEPS = [
    "trainer.max_steps=20",
    "trainer.eval_every=20",
    "trainer.batch_seconds=12",
    "schedule.warmup_steps=2",
    *QUIET,
]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """A corpus at 16 kHz: what the audio store keeps of a resampled clip is rounded, and heads like these
    hang on the last bit.
    """
    return make_corpus(tmp_path_factory.mktemp("tones"), train=12)


def piped(folder: Path, manifest: Path) -> list[str]:
    pipe = transformers.pipeline("automatic-speech-recognition", model=str(folder / "checkpoints/best"))
    texts = []
    with manifest.open() as file:
        for row in csv.DictReader(file):
            samples, rate = soundfile.read(manifest.parent / row["file"], dtype="float32", always_2d=True)
            raw = soxr.resample(samples.mean(1), rate, 16000)
            texts.append(pipe({"raw": raw, "sampling_rate": 16000})["text"].strip())
    return texts


def talkative(monkeypatch: pytest.MonkeyPatch, favour: float = 0.0) -> None:
    """Heads so large that every label wins somewhere; `favour` is for the space and [UNK], which stand before
    the blank.
    """
    from asr_exp.builders import model as builder

    load = builder.load_backbone

    def loud(*args, **kwargs):
        network, extractor = load(*args, **kwargs)
        with torch.no_grad():
            network.lm_head.weight.mul_(100)
            network.lm_head.bias[-3:-1] += favour
        return network, extractor

    monkeypatch.setattr(builder, "load_backbone", loud)


def agree(folder: Path, manifest: Path) -> list[str]:
    """Compare the hypotheses with the pipeline's texts, which are given back. Ours have one space between
    words, where the pipeline has one for each that the network emits.
    """
    texts = piped(folder, manifest)
    ours = [pair["hypothesis"] for pair in lines(folder / "hypotheses.test.jsonl")]
    assert ours == [re.sub(" +", " ", text) for text in texts]
    return texts


@pytest.mark.parametrize("name", NAMES)
def test_every_family(tones, backbone, tmp_path, monkeypatch, name):
    talkative(monkeypatch)
    model = [
        "model=hf",
        f"model.checkpoint={backbone(name)}",
        "optimizer.lr=3e-4",
        "trainer.max_steps=10",
        "trainer.eval_every=10",
    ]
    folder = run(*tones, *model, *STEPS, cwd=tmp_path)
    curve = losses(folder)
    assert np.mean(curve[-4:]) < np.mean(curve[:4])
    texts = agree(folder, Path(tones[3].partition("=")[2]))
    assert len(set(texts)) > 2 and len(set("".join(texts))) > 2


def test_unknowns_and_double_spaces(tones, backbone, tmp_path, monkeypatch):
    talkative(monkeypatch, favour=25.0)
    folder = run(
        *tones,
        "model=hf",
        f"model.checkpoint={backbone('wavlm-layer')}",
        *STEPS,
        "trainer.max_steps=0",
        cwd=tmp_path,
    )
    together = "\n".join(agree(folder, Path(tones[3].partition("=")[2])))
    assert "[UNK]" in together and "  " in together


def test_phones(tones, backbone, tmp_path, monkeypatch):
    talkative(monkeypatch)
    source = Path(tones[1].partition("=")[2]).parent
    named = {}
    for split in ("train", "dev", "test"):
        with (source / f"{split}.csv").open() as file:
            rows = [
                (source / row["file"], " ".join(row["text"].replace(" ", "_")).replace("_", "sil"))
                for row in csv.DictReader(file)
            ]
        named[split] = write_manifest(tmp_path / f"{split}.csv", rows, header=("file", "text"))
    data = [
        "dataset=csv",
        *(f"dataset.{split}={path}" for split, path in named.items()),
        "tokenizer.unit=phone",
    ]
    folder = run(
        *data,
        "model=hf",
        f"model.checkpoint={backbone('hubert-layer')}",
        *STEPS,
        "trainer.max_steps=0",
        cwd=tmp_path,
    )
    texts = agree(folder, named["test"])
    assert len({phone for text in texts for phone in text.split()}) > 3
    assert (
        result(folder)["splits"]["test"]["per"] is not None
        and result(folder)["splits"]["test"]["wer"] is None
    )
