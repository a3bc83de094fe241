"""Speed, memory and syncs of training and scoring, by the audio of a forward pass."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from asr_exp.builders.session import run_session
from asr_exp.config.schema import key_field
from asr_exp.decoding.decoders import make_decoder
from asr_exp.evaluation.evaluate import EvaluationSettings, evaluate
from asr_exp.training import loop
from asr_exp.training.pass_size import expected_memory
from benchmarks.cuda.networks import (
    Network,
    batches_of,
    build,
    clip_seconds,
    configure,
    counted_syncs,
    free,
    networks,
    noise_split,
    peak,
    reset_peak,
    rounded,
    settle,
    setup_of,
    timed_steps,
)
from benchmarks.cuda.parts import Attempt, Bench, Row

DEVICE_SECONDS = (2000, 1000, 400, 100)  # the largest first: where time runs out, what is left out is slowest
SCORED_SECONDS = (400, 2000)
NO_TIME = "no time was left for it"
MEASURED = 2.5  # seconds that a row trains


def sizes(bench: Bench) -> tuple[tuple[float | str, ...], float]:
    """The values of trainer.device_seconds, and the audio of a step, in seconds."""
    known = key_field("trainer.device_seconds")
    auto: tuple[float | str, ...] = ("auto",) if known and "auto" in str(known.metadata) else ()
    return (*auto, *((20, 10) if bench.quick else DEVICE_SECONDS)), 20.0 if bench.quick else 2000.0


def train(bench: Bench) -> Iterator[Row]:
    """Train each network in bf16 at each size of a forward pass."""
    values, batch_seconds = sizes(bench)
    split = noise_split(clip_seconds(4 * batch_seconds))
    for network, end in shares(networks(bench), bench):
        config = configure(network, bench, f"trainer.batch_seconds={batch_seconds}", "trainer.precision=bf16")
        with run_session(config) as runtime:
            model = build(config, split, runtime)
            for device_seconds in values:
                if time.monotonic() > end:
                    yield {
                        "network": network.name,
                        "arm": "ours",
                        "device_seconds": device_seconds,
                        "note": NO_TIME,
                    }
                    continue
                row = _train_row(network, device_seconds, config, split, model, runtime, bench)
                free(bench.device)
                yield row
                if "OutOfMemoryError" in row.get("failed", "") or row.get("split"):
                    yield _train_row(network, device_seconds, config, split, model, runtime, bench, True)
                    no_checkpointing(model.network)
                    free(bench.device)
            del model
            free(bench.device)


def shares(some: Sequence[Network], bench: Bench) -> Iterator[tuple[Network, float]]:
    """Networks, each with the time.monotonic() after which it begins no more rows: its share of what the part
    has left.
    """
    for number, network in enumerate(some):
        yield network, time.monotonic() + bench.left / (len(some) - number)


def _train_row(
    network: Network,
    device_seconds: float | str,
    config: Any,
    split: Any,
    model: Any,
    runtime: Any,
    bench: Bench,
    checkpointing: bool = False,
) -> Row:
    """A row of training.

    Args:
        network: that is trained.
        device_seconds: trainer.device_seconds.
        config: of the run, but for that key.
        split: the audio.
        model: the network's weights, which go on from row to row.
        runtime: the device.
        bench: for the time that is left.
        checkpointing: whether activations are computed anew in the backward pass.
    """
    attempt = Attempt(network=network.name, arm="ours", device_seconds=device_seconds)
    with attempt:
        config.trainer.device_seconds = device_seconds
        config.trainer.gradient_checkpointing = checkpointing
        setup = setup_of(config, split, model, runtime)
        expected = forecast(setup)
        reset_peak(bench.device)
        steps = timed_steps(setup, bench, 0.1 if bench.quick else MEASURED)
        allocated, reserved = peak(bench.device)
        with counted_syncs(bench.device) as syncs:
            loop.train_step(setup, 3, batches_of(setup, 3))
            settle(bench.device)
        values = rounded([allocated, reserved, expected], 2)
        attempt.row |= {
            "rate": round(steps.rate, 1),
            "step_s": round(steps.seconds / steps.count, 4),
            "passes": round(steps.passes, 1),
            "split": steps.split,
            "steps": steps.count,
            "first_step_s": round(steps.first, 2),
            "peak_gib": values[0],
            "reserved_gib": values[1],
            "formula_gib": values[2],
            "syncs": len(syncs),
            "sync_lines": dict(Counter(syncs).most_common(5)),
            "checkpointing": checkpointing,
        }
    model.network.zero_grad(set_to_none=True)
    return attempt.row


def no_checkpointing(network: Any) -> None:
    """Undo trainer.gradient_checkpointing, by whichever name this transformers has for it."""
    disable = getattr(network, "activation_checkpointing_disable", None)
    (disable or network.gradient_checkpointing_disable)()


def forecast(setup: Any) -> float:
    """GiB that the run's own formula expects."""
    return expected_memory(setup) / 2**30


# ------------------------------------------------------------------------------------------------------------
# scoring


def score(bench: Bench) -> Iterator[Row]:
    """Score noise with each network: forward passes, decoding, error counts and the loss."""
    warm = noise_split(clip_seconds(10.0 if bench.quick else 500.0, seed=1), "dev")
    split = noise_split(clip_seconds(20.0 if bench.quick else 10_000.0, seed=2), "test")
    decoder = make_decoder("greedy", split.tokenizer, {})
    for network in networks(bench)[:2]:
        for precision in ("fp32", "bf16"):
            config = configure(
                network, bench, f"trainer.precision={precision}", f"evaluate.precision={precision}"
            )
            with run_session(config) as runtime:
                model = build(config, split, runtime)
                for device_seconds in (20,) if bench.quick else SCORED_SECONDS:
                    attempt = Attempt(
                        network=network.name, arm="ours", precision=precision, device_seconds=device_seconds
                    )
                    with attempt:
                        settings = EvaluationSettings(device_seconds, "mean", precision=precision)
                        evaluate(model, warm, decoder, runtime, settings)
                        reset_peak(bench.device)
                        began = time.perf_counter()
                        evaluate(model, split, decoder, runtime, settings)
                        seconds = time.perf_counter() - began
                        attempt.row |= {
                            "rate": round(float(split.seconds.sum()) / seconds, 1),
                            "seconds": round(seconds, 2),
                            "peak_gib": rounded(peak(bench.device))[0],
                        }
                    yield attempt.row
                del model
                free(bench.device)
