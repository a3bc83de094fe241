"""For programs that run on the stand-in of fake_cuda.py: a training step of any family on noise, measured.

figures("result = [measure('wav2vec2'), measure('wavlm', norm='layer', size='large')]")
"""

import collections
import ctypes
import json
import tempfile
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers

from asr_exp.builders.training import build_training
from asr_exp.config.compose import compose
from asr_exp.model.freezing import freeze
from asr_exp.model.loading import load_backbone
from asr_exp.model.model_config import ModelSettings
from asr_exp.model.recogniser import Recogniser
from asr_exp.runtime.distributed import started
from asr_exp.training.loop import _batches, train_step

__all__ = ["SIZES", "Counts", "build", "json", "librispeech_like", "measure", "np", "started", "torch"]

RATE = 16_000
SIZES: dict[str, dict[str, int]] = {
    "base": {},  # transformers' defaults
    "large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
    "1b": {
        "hidden_size": 1280,
        "num_hidden_layers": 48,
        "num_attention_heads": 16,
        "intermediate_size": 5120,
    },
    "tiny": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256},
    # head size 36, which is no multiple of 8
    "tiny-random": {
        "hidden_size": 144,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 576,
    },
}
KERNELS = ("KERNEL", "GEMM", "CONV", "memset", "COPY D2D")
ATTENTION = ("flash", "fmha", "attention")

# Values mean nothing here, and drawing those of a large network takes long.
for _kind in (torch.nn.Linear, torch.nn.Conv1d):
    _kind.reset_parameters = lambda self: None  # type: ignore[method-assign]
transformers.PreTrainedModel.init_weights = lambda self: None

_library = ctypes.CDLL("libfakecuda.so")
_library.fake_cuda_where.restype = ctypes.c_char_p


class Counts:
    """Counts what happens on the device while the `with` block lasts.

    rows: (count, bytes, flops, name) of each kernel, product and copy. syncs: how often the host waited, by
    what it waited for and the line of ours that it stood in. seconds, cpu_seconds: of the host.
    """

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, float, str]] = []
        self.syncs: collections.Counter[str] = collections.Counter()
        self.seconds = self.cpu_seconds = 0.0
        kind = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_size_t)
        self._callback = kind(self._on_sync)

    def _on_sync(self, what: bytes, size: int) -> None:
        frames = traceback.extract_stack()[:-1]
        own = [f for f in frames if "/asr_exp/" in f.filename]
        operator = _library.fake_cuda_where().decode()[:160]
        place = f"{own[-1].filename.rpartition('/asr_exp/')[2]}:{own[-1].lineno}" if own else "autograd"
        self.syncs[f"{what.decode()} @ {place} {operator}"] += 1

    def __enter__(self) -> "Counts":
        torch.cuda.reset_peak_memory_stats()
        _library.fake_cuda_reset()
        _library.fake_cuda_on_sync(self._callback)
        self.seconds, self.cpu_seconds = -time.perf_counter(), -time.process_time()
        return self

    def __exit__(self, *_: Any) -> None:
        self.seconds += time.perf_counter()
        self.cpu_seconds += time.process_time()
        _library.fake_cuda_on_sync(None)
        with tempfile.NamedTemporaryFile(suffix=".fake_cuda") as file:
            _library.fake_cuda_report(file.name.encode())
            for line in Path(file.name).read_text().splitlines():
                count, size, flops, name = line.split("\t")
                self.rows.append((int(count), float(size), float(flops), name))

    def summary(self) -> dict[str, Any]:
        """The counts as JSON: launches, syncs, copies {kind: [count, bytes]}, TFLOP of products by type, the
        kernels of attention, peak and reserved memory in GiB, seconds of the host.
        """
        products = {
            kind: sum(f for _, _, f, name in self.rows if name.startswith(f"GEMM {kind}")) / 1e12
            for kind in ("bf16", "fp16", "fp32", "fp64")
        }
        return {
            "launches": sum(count for count, _, _, name in self.rows if name.startswith(KERNELS)),
            "syncs": dict(self.syncs.most_common()),
            "copies": {name: [count, int(size)] for count, size, _, name in self.rows if "COPY" in name},
            "gemm_tflop": {kind: round(value, 3) for kind, value in products.items() if value},
            "attention": sorted(
                {name[7:90] for *_, name in self.rows if any(word in name.lower() for word in ATTENTION)}
            ),
            "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3),
            "reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 3),
            "host_s": round(self.seconds, 3),
            "cpu_s": round(self.cpu_seconds, 3),
        }


class NoiseSplit:
    """Stands in for a prepared split: constant clips of given lengths, with 14 labels a second."""

    name = "train"
    rejected: tuple = ()

    def __init__(self, seconds: np.ndarray, vocabulary: int):
        self.seconds = np.asarray(seconds, dtype=np.float64)
        self.vocabulary = vocabulary
        self.utterances = [SimpleNamespace(id=f"u{i}") for i in range(len(self.seconds))]

    def __len__(self) -> int:
        return len(self.seconds)

    def clips(self, indices: np.ndarray) -> list[np.ndarray]:
        return [np.ones(int(self.seconds[i] * RATE), dtype=np.int16) for i in indices]

    def labels(self, index: int) -> np.ndarray:
        count = max(1, int(14 * self.seconds[index]))
        return (np.arange(count) % (self.vocabulary - 1) + 1).astype(np.int64)

    def fingerprint(self) -> str:
        return "noise"


def librispeech_like() -> np.ndarray:
    """Lengths in seconds like those of LibriSpeech: most between 12 and 16.5."""
    rng = np.random.default_rng(0)
    seconds = np.concatenate([rng.uniform(11, 16.5, 700), rng.uniform(2, 11, 300)])
    rng.shuffle(seconds)
    return seconds


def build(
    runtime: Any,
    family: str,
    norm: str,
    size: str,
    overrides: list[str],
    seconds: np.ndarray | None = None,
    vocabulary: int = 32,
    freeze_front_end: bool = True,
    padding: str = "exact",
    **more: Any,
) -> Any:
    """A `TrainingSetup` of a network of that family and size. more: keys of transformers' config."""
    config = compose(
        ["dataset=csv", "dataset.train=x.csv", "model=tiny-random", "augment=default", *overrides]
    )
    keys: dict[str, Any] = dict(SIZES[size])
    if family != "data2vec-audio":
        keys["feat_extract_norm"] = norm
    if norm == "layer" and family in ("wav2vec2", "hubert", "wavlm", "unispeech"):
        keys |= {"do_stable_layer_norm": True, "conv_bias": True}
    if family.startswith("sew"):
        keys["squeeze_factor"] = 2
    augment = {k: v for k, v in config.augment.items() if k not in ("name", "speed")}
    settings = ModelSettings(
        None, None, family, keys | more, augment, False, config.model.attention, runtime.device.type
    )
    network, extractor = load_backbone(settings, vocabulary, 0)
    freeze(network, freeze_front_end, [])
    model = Recogniser(network, extractor, padding).to(runtime.device)
    tokenizer = SimpleNamespace(tokens=[str(i) for i in range(vocabulary)], blank=0)
    split = NoiseSplit(librispeech_like() if seconds is None else seconds, vocabulary)
    return build_training(config, split, tokenizer, model, runtime)  # type: ignore[arg-type]


def measure(
    family: str,
    norm: str = "group",
    size: str = "base",
    precision: str = "bf16",
    batch_seconds: float = 400,
    device_seconds: float | str = 100,
    steps: int = 2,
    overrides: tuple[str, ...] = (),
    **more: Any,
) -> dict[str, Any]:
    """The counts of the last of a few training steps, with `passes`, `audio_seconds` and `parameters`.

    overrides: further keys of the config; more: of `build`.
    """
    words = [
        f"trainer.batch_seconds={batch_seconds}",
        f"trainer.device_seconds={device_seconds}",
        f"trainer.precision={precision}",
        "trainer.max_steps=10",
        "trainer.max_epochs=null",
        "trainer.device=cuda",
        *overrides,
    ]
    with started("cuda", precision) as runtime:
        torch.cuda.empty_cache()
        setup = build(runtime, family, norm, size, words, **more)
        for step in range(1, steps + 1):
            batches = _batches(setup, step)
            with Counts() as counts:
                train_step(setup, step, batches)
        audio = float(setup.plan.seconds[setup.plan.step(steps)].sum())
        parameters = sum(p.numel() for p in setup.model.parameters())
        return {
            "passes": len(batches),
            "audio_seconds": round(audio, 1),
            "parameters": parameters,
            **counts.summary(),
        }
