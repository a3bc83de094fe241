"""transformers' own networks in a plain loop: as its CTC example is run, and with care. Same audio, same
sizes, same dropout, layerdrop and masks as ours; seconds of audio a second, padding not counted.

`hf` pads 16 clips of about one length, prepares them when they are asked for, clips gradients and steps as
the Trainer does, and looks after each pass whether the loss is a number, as the Trainer does by default.
`hf-tuned` makes batches of so much audio, padding counted, in order of length, ahead in a thread and from
pinned memory, with a fused AdamW, and never asks the device. What else the Trainer spends (callbacks,
Accelerate, features as lists) is left out, which favours both.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import transformers

from asr_exp.builders.model import model_settings
from asr_exp.data.batch import prefetch
from asr_exp.model.model_config import read_config
from asr_exp.runtime.distributed import started
from benchmarks.cuda.networks import (
    Network,
    Timer,
    clip_seconds,
    configure,
    free,
    networks,
    noise_split,
    peak,
    reset_peak,
    rounded,
)
from benchmarks.cuda.parts import Attempt, Bench, Row

CLIPS = 16  # per_device_train_batch_size of the published commands
GROUP = 50  # batches of clips, within which the Trainer groups by length
SIZES = (2000, 1000, 700, 400, 200)  # seconds of audio in a pass, tuned: the two largest that fit
MEASURED = 2.5  # seconds that a row trains


def run(bench: Bench) -> Iterator[Row]:
    """Rows of speed and memory, of both arms, for each network."""
    split = noise_split(clip_seconds(60.0 if bench.quick else 8000.0))
    with started(bench.device, "bf16") as runtime:
        for network in networks(bench):
            model = network_of(network, bench, runtime)
            sizes = (60,) if bench.quick else SIZES
            fitted = 0
            for arm, size in (("hf", None), *(("hf-tuned", one) for one in sizes)):
                if fitted == 2:
                    break
                attempt = Attempt(network=network.name, arm=arm, pass_seconds=size)
                with attempt:
                    attempt.row |= {"attention": model.config._attn_implementation}
                    attempt.row |= _train(model, split, arm, size, bench, runtime)
                fitted += arm == "hf-tuned" and not attempt.failed
                yield attempt.row
                model.zero_grad(set_to_none=True)
                free(bench.device)
            del model
            free(bench.device)


def network_of(network: Network, bench: Bench, runtime: Any) -> Any:
    """transformers' network of the same config, drawn on the device; sdpa where it has that."""
    config = configure(network, bench)
    chosen = read_config(model_settings(config, bench.device))
    chosen.vocab_size, chosen.pad_token_id = 30, 29
    attention = "eager" if network.architecture == "wavlm" else "sdpa"
    with runtime.device:
        made = transformers.AutoModelForCTC.from_config(chosen, attn_implementation=attention)
    made.freeze_feature_encoder()
    return made.to(runtime.device)


def _train(model: Any, split: Any, arm: str, size: int | None, bench: Bench, runtime: Any) -> Row:
    tuned = arm == "hf-tuned"
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=tuned and bench.device == "cuda")
    order = list(_by_size(split.seconds, size) if size else _grouped(split.seconds))
    model.train()
    reset_peak(bench.device)
    timer, audio = Timer(bench, 0.1 if bench.quick else MEASURED), 0.0
    numbers = (order[i % len(order)] for i in range(1 << 30))
    made: Any = (
        _ahead(numbers, model, split, bench) if tuned else ((i, _batch(i, model, split)) for i in numbers)
    )
    with contextlib.closing(made):
        for indices, batch in made:
            loss = _step(model, batch, optimizer, trained, runtime)
            if not tuned:
                bool(torch.isfinite(loss))  # as logging_nan_inf_filter has it by default: the host waits
            if timer.count():
                audio += float(split.seconds[indices].sum())
            if timer.over:
                break
    return {
        "rate": round(audio / timer.seconds, 1),
        "step_s": round(timer.seconds / timer.counted, 4),
        "clips": round(float(np.mean([len(one) for one in order])), 1),
        "steps": timer.counted,
        "peak_gib": rounded(peak(bench.device))[0],
    }


def _step(model: Any, batch: dict[str, Any], optimizer: Any, trained: list, runtime: Any) -> torch.Tensor:
    there = {name: tensor.to(runtime.device, non_blocking=True) for name, tensor in batch.items()}
    with runtime.autocast():
        loss = model(**there).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def _grouped(seconds: np.ndarray) -> Iterator[np.ndarray]:
    """Batches as the Trainer's group_by_length makes them: in order of length within 50 batches."""
    order = np.random.default_rng(0).permutation(len(seconds))
    for first in range(0, len(order), CLIPS * GROUP):
        window = order[first : first + CLIPS * GROUP]
        window = window[np.argsort(-seconds[window], kind="stable")]
        yield from (window[i : i + CLIPS] for i in range(0, len(window), CLIPS))


def _by_size(seconds: np.ndarray, size: float) -> list[np.ndarray]:
    """Batches in order of length, each of at most so many seconds, padding counted; shuffled."""
    batches: list[list[int]] = []
    for index in np.argsort(-seconds, kind="stable"):
        if batches and (len(batches[-1]) + 1) * seconds[batches[-1][0]] <= size:
            batches[-1].append(int(index))
        else:
            batches.append([int(index)])
    order = np.random.default_rng(0).permutation(len(batches))
    return [np.array(batches[i]) for i in order]


def _batch(indices: np.ndarray, model: Any, split: Any) -> dict[str, torch.Tensor]:
    """What the feature extractor and the collator make: normalised floats, zeros, labels with -100."""
    clips = [clip.astype(np.float32) / 32768 for clip in split.clips(indices)]
    longest = max(map(len, clips))
    values = torch.zeros(len(clips), longest)
    mask = torch.zeros(len(clips), longest, dtype=torch.int32)
    for row, marks, clip in zip(values, mask, clips, strict=True):
        row[: len(clip)] = torch.from_numpy((clip - clip.mean()) / np.sqrt(clip.var() + 1e-7))
        marks[: len(clip)] = 1
    labels = [torch.from_numpy(split.labels(int(i)).astype(np.int64)) for i in indices]
    made = {
        "input_values": values,
        "labels": torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100),
    }
    return {**made, "attention_mask": mask} if model.config.feat_extract_norm == "layer" else made


def _ahead(numbers: Iterator[np.ndarray], model: Any, split: Any, bench: Bench) -> Iterator[Any]:
    def make(indices: np.ndarray) -> Any:
        batch = _batch(indices, model, split)
        if bench.device == "cuda":
            batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
        return indices, batch

    return prefetch(numbers, make, ahead=3)
