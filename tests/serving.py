"""What the tests of `serve` share: a recogniser that says much, recordings, and a server in a process of its
own.
"""

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import harness
import numpy as np
import soundfile
import torch

LETTERS = "abcdefghij"


def save_recogniser(folder: Path, kind: str = "wav2vec2", norm: str = "group") -> Path:
    """A tiny CTC checkpoint with random weights, so large that what it says differs from one recording to the
    next.
    """
    import transformers

    tokens = [*LETTERS, "|", "[UNK]", "[PAD]"]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        kind, **harness.settings(kind, norm, vocab_size=len(tokens), pad_token_id=len(tokens) - 1)
    )
    network = transformers.AutoModelForCTC.from_config(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        network.lm_head.weight.mul_(20)
        # pauses between words, no [UNK]
        network.lm_head.bias.copy_(torch.tensor([0.0] * len(LETTERS) + [45.0, -1000.0, 30.0]))
    network.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=norm == "layer").save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    transformers.Wav2Vec2CTCTokenizer(
        str(folder / "vocab.json"),
        bos_token=None,
        eos_token=None,
        unk_token="[UNK]",
        pad_token="[PAD]",
        word_delimiter_token="|",
    ).save_pretrained(folder)
    return folder


def recording(seconds: float, seed: int = 0, rate: int = 16000) -> np.ndarray:
    """int16 samples of words of tones, another for each seed."""
    rng = np.random.default_rng(seed)
    samples = np.zeros(0, dtype=np.float32)
    while len(samples) < seconds * rate:
        samples = np.concatenate(
            [samples, harness.spoken(rng.choice(list(harness.WORDS), size=4), rng, rate)]
        )
    return (samples[: round(seconds * rate)] * 32767).astype(np.int16)


def encoded(
    samples: np.ndarray, rate: int = 16000, format: str = "WAV", subtype: str | None = "PCM_16"
) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


@contextmanager
def server(*arguments: str, cwd: Path, **more: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """`serve` in a process of its own -> (its address, the process), once it answers; stopped at the end.

    What it complains of is in cwd/server.txt.
    """
    words = harness.latest(["serve.port=0", "trainer.device=cpu", *arguments])
    log = (cwd / "server.txt").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "asr_exp", "serve", *words],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=harness.environment(**more),
    )
    try:
        assert process.stdout
        for line in process.stdout:
            if found := re.search(r"http://\S+", line):
                break
        else:
            raise AssertionError((cwd / "server.txt").read_text())
        yield found.group(), process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            log.close()
