"""What the arms are given: speech of given lengths with manifests, and initial weights. All of it a function
of a seed.
"""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from benchmarks.rows import MODELS

RATE = 16000
# Deciles of clip lengths in seconds, as measured on recordings of these corpora.
LENGTHS = {
    "librispeech": (2.4, 5.0, 7.8, 10.5, 12.6, 13.6, 14.3, 14.8, 15.2, 15.8, 17.0),
    "common-voice": (1.6, 2.4, 2.9, 3.3, 3.4, 3.7, 4.1, 4.7, 5.2, 6.2, 10.5),
    "timit": (1.4, 2.2, 2.4, 2.6, 2.8, 3.0, 3.1, 3.3, 3.7, 4.2, 5.5),
}
WORDS = (
    "please",
    "turn",
    "on",
    "the",
    "kitchen",
    "light",
    "and",
    "bring",
    "my",
    "red",
    "cup",
    "some",
    "tea",
    "then",
    "close",
    "garden",
)
# The space first, as in the vocabularies the example script makes: gathered logits are filled up with what
# its argmax takes for the first.
TOKENS = ["|", *"abcdefghijklmnopqrstuvwxyz'", "[UNK]", "[PAD]"]
POOL = 600  # seconds of speech that clips are cut from


def clip_seconds(shape: str, batch: int, steps: int, seed: int = 0) -> np.ndarray:
    """Lengths of batch * steps clips of a corpus (or of all, `mixed`), in random order.

    Each run of `batch` clips, in order of length, is about as even as it is in a corpus of thousands of
    hours: what grouping by length can save, it saves here too, however few the clips are.
    """
    rng = np.random.default_rng(seed)
    shapes = list(LENGTHS) if shape == "mixed" else [shape]
    levels = np.linspace(0, 1, 1001)
    every = np.sort(
        np.concatenate([np.interp(levels, np.linspace(0, 1, 11), LENGTHS[name]) for name in shapes])
    )
    middles = np.quantile(every, (np.arange(steps) + 0.5) / steps)
    return rng.permutation(np.repeat(middles, batch) * rng.uniform(0.985, 1.015, batch * steps))


def speech(folder: Path | None, seed: int = 0) -> np.ndarray:
    """Speech to cut clips from, int16 at 16 kHz: of the recordings in a folder, else sentences of the demo,
    synthesised.
    """
    parts: list[np.ndarray] = []
    if folder:
        for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".wav", ".flac")):
            if sum(map(len, parts)) < POOL * RATE:
                samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
                parts.append(_at_rate(samples.mean(axis=1), rate))
        if not parts:
            raise SystemExit(
                f"speech={folder} holds no .wav or .flac file; give another folder, or leave it out."
            )
        return np.concatenate(parts)
    from asr_exp.data.corpora.synthetic import demo
    from asr_exp.data.espeak import Synthesiser

    synthesiser = Synthesiser(seed)
    for line in demo.splits({"train": POOL // 2}, seed)["train"]:
        spoken, rate = synthesiser.say(line.text, line.voice, line.rate, line.pitch)
        parts.append(_at_rate(spoken.astype(np.float32) / 32768, rate))
    return np.concatenate(parts)


def _at_rate(samples: np.ndarray, rate: int) -> np.ndarray:
    return (np.clip(soxr.resample(samples, rate, RATE), -1, 1) * 32767).astype(np.int16)


def make_manifest(path: Path, seconds: np.ndarray, pool: np.ndarray, seed: int = 0) -> Path:
    """Clips of these lengths and a manifest of them. Transcripts are words at a natural pace: no row is
    scored by them.
    """
    rng = np.random.default_rng([seed, 1])
    clips = path.with_suffix("")
    clips.mkdir(parents=True)
    rows = []
    for number, length in enumerate(seconds):
        samples = pool[(rng.integers(len(pool)) + np.arange(int(length * RATE))) % len(pool)]
        soundfile.write(clips / f"{number:05d}.wav", samples, RATE, subtype="PCM_16")
        rows.append(
            (f"{clips.name}/{number:05d}.wav", " ".join(rng.choice(WORDS, size=max(1, int(2.7 * length)))))
        )
    return write_manifest(path, rows)


def write_manifest(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("file", "text"), *rows])
    return path


def config_of(name: str) -> Any:
    """The transformers config of one of MODELS."""
    import transformers

    return transformers.Wav2Vec2Config(
        **MODELS[name], vocab_size=len(TOKENS), pad_token_id=TOKENS.index("[PAD]"), ctc_loss_reduction="mean"
    )


def save_model(folder: Path, name: str, seed: int = 0) -> Path:
    """Random weights of one of MODELS with its tokenizer and feature extractor, as `save_pretrained` leaves
    them.
    """
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(
        json.dumps({token: i for i, token in enumerate(TOKENS)}), encoding="utf-8"
    )
    tokenizer = transformers.Wav2Vec2CTCTokenizer(
        str(folder / "vocab.json"),
        bos_token=None,
        eos_token=None,
        unk_token="[UNK]",
        pad_token="[PAD]",
        word_delimiter_token="|",
    )
    torch.manual_seed(seed)
    network = transformers.Wav2Vec2ForCTC(config_of(name))
    network.save_pretrained(folder)
    layer_norm = network.config.feat_extract_norm == "layer"
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=layer_norm)
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    return folder
