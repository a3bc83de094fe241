"""Networks of random weights on the device, noise for them to hear, and a training step as a run makes it."""

import contextlib
import gc
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from asr_exp.builders.model import build_recogniser
from asr_exp.builders.training import build_training
from asr_exp.config.compose import compose, validate
from asr_exp.data.batch import prefetch
from asr_exp.data.prepare import Split
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.data.utterances import FileAudio, Utterance, Utterances
from asr_exp.training import loop
from benchmarks.cuda.parts import Bench
from benchmarks.rows import MODELS

RATE = 16_000
LABELS_A_SECOND = 14  # of English read aloud
LENGTHS = (2.4, 5.0, 7.8, 10.5, 12.6, 13.6, 14.3, 14.8, 15.2, 15.8, 17.0)  # deciles of LibriSpeech's clips
LETTERS = "etaoinshrdlcumwfgypbvkjxqz'"
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}


@dataclass(frozen=True)
class Network:
    """A network that is measured. settings: what differs from the defaults of its architecture."""

    name: str
    architecture: str
    settings: dict[str, Any]


BASE = Network("base", "wav2vec2", {})
WAVLM_LARGE = Network(
    "wavlm-large", "wavlm", {k: v for k, v in MODELS["large"].items() if k != "conv_bias"} | LAYER_NORM
)
XLS_R_1B = Network(
    "xls-r-1b",
    "wav2vec2",
    MODELS["large"] | {"hidden_size": 1280, "num_hidden_layers": 48, "intermediate_size": 5120},
)
TINY = Network("tiny", "wav2vec2", MODELS["tiny"])
TINY_WAVLM = Network("tiny-wavlm", "wavlm", MODELS["tiny"] | LAYER_NORM)


def networks(bench: Bench) -> list[Network]:
    """The networks of the measurements of speed."""
    return [TINY, TINY_WAVLM] if bench.quick else [BASE, WAVLM_LARGE, XLS_R_1B]


# ------------------------------------------------------------------------------------------------------------
# noise


class NoiseStore:
    """Clips cut from one piece of noise, by the name and methods of the audio store that a `Split` reads."""

    rate = RATE

    def __init__(self, samples: np.ndarray):
        rng = np.random.default_rng(0)
        self.lengths = samples
        self._noise = (3000 * rng.standard_normal(int(samples.max()) + RATE)).astype(np.int16)
        self._starts = rng.integers(RATE, size=len(samples))

    def read(self, rows: np.ndarray) -> list[np.ndarray]:
        return [self._noise[self._starts[i] : self._starts[i] + self.lengths[i]] for i in rows]


def clip_seconds(total: float, seed: int = 0) -> np.ndarray:
    """Lengths in seconds as LibriSpeech's, in random order, about so many seconds together."""
    count = max(4, round(total / 11.9))
    levels = (np.arange(count) + 0.5) / count
    return np.random.default_rng(seed).permutation(np.interp(levels, np.linspace(0, 1, 11), LENGTHS))


def noise_split(seconds: np.ndarray, name: str = "train") -> Split:
    """A split of noise with random letters for transcripts."""
    rng = np.random.default_rng(1)
    texts = [
        "".join(rng.choice(list(LETTERS + "     "), size=max(1, int(LABELS_A_SECOND * one)))).strip() or "e"
        for one in seconds
    ]
    rows = Utterances(Utterance(f"{name}{i}", FileAudio(f"/{i}.wav"), text) for i, text in enumerate(texts))
    samples = np.rint(seconds * RATE).astype(np.int64)
    store: Any = NoiseStore(samples)
    tokenizer = Tokenizer.build([LETTERS, "a b"])
    return Split(name, rows, tokenizer, samples / RATE, [], store, np.arange(len(rows), dtype=np.int32))


# ------------------------------------------------------------------------------------------------------------
# networks


def configure(network: Network, bench: Bench, *overrides: str) -> Any:
    """The config of a run that trains a network from random weights, as the command line would make it."""
    settings = "{" + ",".join(f"{name}: {_yaml(value)}" for name, value in network.settings.items()) + "}"
    config = compose(
        [
            "dataset=csv",
            "dataset.train=none.csv",
            "model=hf",
            "model.checkpoint=null",
            f"model.architecture={network.architecture}",
            f"model.config={settings}",
            "trainer.max_epochs=null",
            "trainer.max_steps=1000",
            f"trainer.device={bench.device}",
            "tracking=none",
            *overrides,
        ]
    )
    validate(config)
    return config


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")


def build(config: Any, split: Split, runtime: Any) -> Any:
    """The recogniser, its weights drawn from config.seed on the device itself, which is quicker."""
    with runtime.device:
        return build_recogniser(config, split.tokenizer, runtime)


def setup_of(config: Any, split: Split, model: Any, runtime: Any) -> Any:
    return build_training(config, split, split.tokenizer, model, runtime)


def batches_of(setup: Any, step: int) -> Any:
    """A step's batches, as the training loop makes them."""
    return loop._batches(setup, step)


def free(device: str) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


# ------------------------------------------------------------------------------------------------------------
# measuring

SLOW = 5.0  # seconds of a first step after which there is no second that is not timed


def settle(device: str) -> None:
    """Wait until the device has done all it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


@dataclass
class Steps:
    """Steps that were timed: of how much audio, how long they took, and the first one, which warms up.

    passes: of a step on average. split: whether a pass did not fit and was made in parts.
    """

    count: int
    audio: float
    seconds: float
    first: float
    passes: float
    split: bool

    @property
    def rate(self) -> float:
        """Seconds of audio a second."""
        return self.audio / self.seconds


def timed_steps(setup: Any, bench: Bench, seconds: float) -> Steps:
    """Train for about so many seconds, after two steps that are not counted (one, where it is slow); batches
    are made ahead in a thread, as a run makes them, and nothing waits for the device between the steps.
    """
    timer = Timer(bench, seconds)
    audio, passes, planned = 0.0, 0, 0
    made: Any = prefetch(range(1, 1 << 30), lambda step: (step, batches_of(setup, step)), ahead=2)
    with contextlib.closing(made):
        for step, batches in made:
            figures = loop.train_step(setup, step, batches)
            if timer.count():
                audio += float(setup.plan.seconds[setup.plan.step(step)].sum())
                passes += len(figures.losses)
                planned += len(batches)
            if timer.over:
                break
    return Steps(timer.counted, audio, timer.seconds, timer.first, passes / timer.counted, passes > planned)


class Timer:
    """Counts steps: first those that warm up, by whose time it chooses how many are then timed together.

    counted: steps so far that are timed. first: seconds of the first step. seconds: of all that were timed,
    once it is over.
    """

    def __init__(self, bench: Bench, seconds: float, most: int = 50):
        self.counted = 0
        self.first = self.seconds = 0.0
        self.over = False
        self._bench, self._wanted, self._most = bench, seconds, most
        self._warm = self._steps = 0
        self._began = time.perf_counter()

    def count(self) -> bool:
        """Note a step that was made (given to the device); whether it is one of those that are timed."""
        if not self._steps:
            settle(self._bench.device)
            took = time.perf_counter() - self._began
            self._warm += 1
            self.first = self.first or took
            if self._warm == 2 or took > SLOW:
                wanted = min(self._wanted, max(0.0, self._bench.left - took))
                self._steps = min(self._most, max(2, math.ceil(wanted / took)))
            self._began = time.perf_counter()
            return False
        self.counted += 1
        if self.counted == self._steps:
            settle(self._bench.device)
            self.seconds = time.perf_counter() - self._began
            self.over = True
        return True


@contextlib.contextmanager
def counted_syncs(device: str) -> Iterator[list[str]]:
    """While it lasts, each wait of the host for the device adds a line to the list (torch's own sync debug
    mode, which sees what its allocator and its operators do).
    """
    found: list[str] = []
    if device != "cuda":
        yield found
        return
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
            found += [
                f"{one.filename.rpartition('site-packages/')[2]}:{one.lineno}"
                for one in warned
                if "synchroniz" in str(one.message)
            ]


def peak(device: str) -> tuple[float, float]:
    """GiB allocated and reserved at the peak since `reset_peak`; nan on a CPU."""
    if device != "cuda":
        return float("nan"), float("nan")
    return torch.cuda.max_memory_allocated() / 2**30, torch.cuda.max_memory_reserved() / 2**30


def reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def rounded(values: Sequence[float], digits: int = 2) -> list[float | None]:
    """For JSON: not-a-number is None."""
    return [None if np.isnan(one) else round(float(one), digits) for one in values]
