"""What has to hold before a speed counts: the same loss and gradients, and the same learning. A row whose
gate fails is void.
"""

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks import material
from benchmarks.arm import Clock, Task
from benchmarks.measure import Bench, run_arm
from benchmarks.rows import ARMS, Row

TOLERANCE = 1e-4  # relative, of loss and gradients in fp32
# a tensor's difference is relative to its own gradient, or to this share of the whole gradient where that is
# larger
FLOOR = 1e-3
SEEDS = 3
T99 = 4.604  # Student's t, two-sided 99 %, for the 2 * SEEDS - 2 degrees of freedom of two arms
COARSE = 0.15  # noise beyond which nothing is shown
NOISE = 0.04  # beside tones of 0.2 to 0.6: loud enough that the best of recognisers errs
TONES = {"ba": 250.0, "di": 500.0, "go": 900.0, "lu": 1600.0, "me": 2600.0}
# learning rate of the one step of SGD that reveals the gradient: large, so that rounding of the weights is
# not seen
STEP = 1000.0


def gates_of(rows: list[Row]) -> list[str]:
    """The names of the gates that these rows have to pass."""
    return list(dict.fromkeys(name for row in rows for name in of_row(row)))


def of_row(row: Row) -> list[str]:
    return [
        f"gradients-{row.model}",
        *([f"learning-{row.precision}"] if row.kind == "train" and not row.quick else []),
    ]


def check(name: str, bench: Bench, device: str) -> dict[str, Any]:
    """Run a gate -> {"passed": bool, "says": what was found, and the figures}."""
    kind, _, what = name.partition("-")
    return _gradients(what, bench, device) if kind == "gradients" else _learning(what, bench, device)


# ------------------------------------------------------------------------------------------------------------
# the same loss and gradients


def _gradients(model: str, bench: Bench, device: str) -> dict[str, Any]:
    clips, seconds = bench.clips(1, 4, seed=2)
    task = Task(
        "gate",
        "gradients",
        str(bench.model(model)),
        str(clips),
        str(clips),
        "",
        "",
        "fp32",
        device,
        4,
        1,
        1,
        seconds,
    )
    found = run_arm(task, bench.folder)
    if "failed" in found:
        return {"passed": False, "says": found["failed"]}
    apart = {name: found[name] for name in ("loss", "gradient", "tensor")}
    says = (
        f"relative difference of the loss {apart['loss']:.0e}, the gradient {apart['gradient']:.0e}, one"
        f" tensor's {apart['tensor']:.0e}"
    )
    return {"passed": max(apart.values()) <= TOLERANCE, "says": f"{says}; allowed {TOLERANCE:.0e}", **apart}


def run(task: Task, clock: Clock) -> None:
    """One step of plain gradient descent by asr_exp's command line, in fp32, on clips of different lengths
    together, against transformers.

    What the step took from the weights is the gradient times the learning rate.
    """
    from safetensors.numpy import load_file

    from asr_exp.cli.main import main
    from benchmarks import ours

    ours.watch(task, clock)
    asked = [word for word in ours.settings(task) if not word.startswith(("augment", "optimizer.lr="))]
    asked += [
        "augment=none",
        "schedule=constant",
        "optimizer=sgd",
        "optimizer.momentum=0",
        f"optimizer.lr={STEP}",
    ]
    asked += ["optimizer.clip_norm=null"]
    if status := main(asked):
        raise SystemExit(status)
    (folder,) = (path.parent for path in Path(task.folder).glob("outputs/*/*/*/metrics.jsonl"))
    loss = json.loads((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])["train/loss"]
    before = load_file(Path(task.model) / "model.safetensors")
    after = load_file(folder / "checkpoints" / "last" / "model.safetensors")
    theirs_loss, theirs = _by_transformers(task)
    ours_by_name = {name: (before[name].astype(np.float64) - after[name]) / STEP for name in theirs}
    clock.found |= {"loss": abs(loss - theirs_loss) / abs(theirs_loss), **_differences(ours_by_name, theirs)}


def _by_transformers(task: Task) -> tuple[float, dict[str, np.ndarray]]:
    """Mean loss over the clips and its gradient by name, in double precision; each clip alone, so that
    padding has no say.

    The loss is not transformers' own, which is CTC's in fp32 whatever the network's precision: its gradient
    is off by up to 1e-4.
    """
    import torch
    import transformers

    from benchmarks.hf import network_of, rows_of

    processor = transformers.Wav2Vec2Processor.from_pretrained(task.model)
    network = network_of(task, processor, "eager", mask_time_prob=0.0).double().train()
    rows, total = rows_of(task.train), 0.0
    for row in rows:
        samples, rate = soundfile.read(row["file"], dtype="float32")
        values = processor.feature_extractor(samples, sampling_rate=rate, return_tensors="pt").input_values
        labels = processor.tokenizer(row["text"], return_tensors="pt").input_ids
        log_probs = network(values.to(torch.float64)).logits.log_softmax(-1).transpose(0, 1)
        frames, length = torch.tensor([len(log_probs)]), torch.tensor([labels.shape[1]])
        loss = torch.nn.functional.ctc_loss(
            log_probs, labels, frames, length, network.config.pad_token_id
        ) / len(rows)
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.numpy() for name, p in network.named_parameters() if p.grad is not None}


def _differences(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, float]:
    """Relative differences of the whole gradient and of its worst tensor."""
    norms = {name: float(np.linalg.norm(gradient)) for name, gradient in theirs.items()}
    apart = {name: float(np.linalg.norm(ours[name] - gradient)) for name, gradient in theirs.items()}
    whole = math.hypot(*norms.values())
    return {
        "gradient": math.hypot(*apart.values()) / whole,
        "tensor": max(apart[n] / max(norms[n], FLOOR * whole) for n in theirs),
    }


# ------------------------------------------------------------------------------------------------------------
# the same learning


def _learning(precision: str, bench: Bench, device: str) -> dict[str, Any]:
    """WER on held-out utterances after the same steps from the same weights, with several seeds an arm.

    The seeds differ in the order of the data and the masks: their spread is the noise that a difference of
    means is held against.
    """
    batch = 6
    steps = 50
    epochs = 12
    train, seconds = _tones(bench.folder / "tones" / "train.csv", batch * steps, 0)
    test, _ = _tones(bench.folder / "tones" / "test.csv", 100, 1)
    task = Task(
        "",
        "learn",
        str(bench.model("learner")),
        str(train),
        str(test),
        "",
        "",
        precision,
        device,
        batch,
        steps,
        epochs,
        seconds,
        learning_rate=3e-3,
        warmup=20,
        mask_length=2,
    )
    wers: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for seed in range(SEEDS):
        for arm in ARMS:
            found = run_arm(replace(task, arm=arm, seed=seed), bench.folder)
            if "failed" in found:
                return {"passed": False, "says": f"{arm}: {found['failed']}"}
            wers[arm].append(found["wer"])
            bench.say(f"learning-{precision}: {arm}, seed {seed}: WER {found['wer']:.3f}")
    return judge(wers)


def judge(wers: dict[str, list[float]]) -> dict[str, Any]:
    """Whether our mean WER is that of the others within the seeds' noise: Student's t on their pooled
    variance, at 99 %, or half a point.

    Better is no excuse: the arms are to do the same. Where nobody has learned, or the noise hides everything,
    the gate fails.
    """
    means = {arm: statistics.mean(values) for arm, values in wers.items()}
    apart = []
    passed = True
    faults = [] if min(means.values()) < 0.9 else ["nobody learned"]
    for other in ("hf", "hf-tuned"):
        pooled = (statistics.variance(wers["ours"]) + statistics.variance(wers[other])) / 2
        allowed = max(0.005, T99 * math.sqrt(2 * pooled / SEEDS))
        passed &= abs(means["ours"] - means[other]) <= allowed
        faults += [f"too noisy to tell from {other}"] if allowed > COARSE else []
        apart.append(f"{means['ours'] - means[other]:+.3f} against {other} (noise {allowed:.3f})")
    says = (
        ", ".join(f"{arm} {means[arm]:.3f}" for arm in ARMS)
        + f"; ours {' and '.join(apart)}, {SEEDS} seeds each"
    )
    return {"passed": passed and not faults, "says": "; ".join([f"WER {says}", *faults]), "wers": wers}


def _tones(path: Path, count: int, seed: int) -> tuple[Path, float]:
    """Utterances of three words, each a burst of its own tone in noise: learned in seconds, not all of it ->
    manifest, seconds.

    They are about as long as each other, so that which of them share a batch has no part in what is learned.
    """
    rng = np.random.default_rng([seed, 3])
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    rows, seconds = [], 0.0
    for number in range(count):
        words = [str(word) for word in rng.choice(list(TONES), size=3)]
        parts = []
        for word in words:
            time = np.arange(int(material.RATE * rng.uniform(0.2, 0.3))) / material.RATE
            parts += [
                np.hanning(len(time)) * np.sin(2 * np.pi * TONES[word] * rng.uniform(0.97, 1.03) * time),
                np.zeros(1600),
            ]
        samples = np.concatenate(parts) * rng.uniform(0.2, 0.6)
        samples = samples + NOISE * rng.standard_normal(len(samples))
        soundfile.write(folder / f"{number:03d}.wav", samples, material.RATE, subtype="PCM_16")
        rows.append((f"{folder.name}/{number:03d}.wav", " ".join(words)))
        seconds += len(samples) / material.RATE
    return material.write_manifest(path, rows), seconds
