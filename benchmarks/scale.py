"""Does memory, or the cost of a second of audio, grow with the corpus? `python -m benchmarks.scale
[scales=1,10,100] [out=FOLDER]`

One long recording of noise is cut into 500, 5,000 and 50,000 utterances of a second (half a second to one and
a half), each a row of a manifest of its own. A run of a small network from random weights trains one epoch on
them and scores as many, in a fresh process with an empty cache; the peaks of its resident memory are taken
apart: until the first step is over, of the epoch, of the scoring.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.arm import memory_of
from benchmarks.ranks import forget_peak

BASE = 500
SECONDS = 1000
RATE = 16000
WORDS = ("ba", "di", "go", "lu", "me")


def main(arguments: Sequence[str]) -> int:
    asked = {"scales": "1,10,100", "out": "", "run": ""}
    for word in arguments:
        key, equals, value = word.partition("=")
        if not equals or key not in asked:
            print(
                (
                    f"{__doc__}"
                    if word in ("-h", "--help")
                    else f"error: {word} is not scales=1,10,100 or out=FOLDER."
                ),
                file=sys.stderr,
            )
            return 0 if word in ("-h", "--help") else 2
        asked[key] = value
    if asked["run"]:
        watch(Path(asked["run"]))
        return 0
    found = []
    with tempfile.TemporaryDirectory(prefix="asr-exp-scale-") as scratch:
        for scale in map(int, asked["scales"].split(",")):
            found.append(measured(Path(scratch) / str(scale), BASE * scale))
            print(line(found[-1]), file=sys.stderr, flush=True)
    page = "\n".join([*HEAD, *map(line, found), ""])
    if asked["out"]:
        (Path(asked["out"]) / "SCALE.md").write_text(
            TITLE.format(date=report.today()) + page, encoding="utf-8"
        )
    print(page)
    return 0


TITLE = """# Memory and cost against the size of the corpus

Made by `python -m benchmarks.scale` on {date}; do not edit. What is measured: see its `--help`.

"""
HEAD = (
    (
        "| utterances | first step after, s | until then, MB | epoch, audio-s/s | epoch, MB | scoring,"
        " audio-s/s | scoring, MB |"
    ),
    "|---|---|---|---|---|---|---|",
)


def line(one: Mapping[str, float]) -> str:
    return (
        f"| {one['utterances']:,} | {one['start']:.1f} | {one['start_memory'] / 1e6:.0f} |"
        f" {one['epoch_rate']:.0f} | {one['epoch_memory'] / 1e6:.0f} | {one['scoring_rate']:.0f} |"
        f" {one['scoring_memory'] / 1e6:.0f} |"
    )


def measured(folder: Path, utterances: int) -> dict[str, float]:
    """The figures of a corpus of so many utterances: seconds, audio seconds a second, bytes."""
    make_corpus(folder, utterances)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "ASR_EXP_CACHE": str(folder / "cache")}
    began = time.time()
    subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", f"run={folder}"],
        check=True,
        stdout=subprocess.DEVNULL,
        env=environment,
    )
    at = json.loads((folder / "found.json").read_text())
    audio = utterances * 1.0
    return {
        "utterances": utterances,
        "start": at["first"]["time"] - began,
        "start_memory": at["first"]["memory"],
        "epoch_rate": audio / (at["last"]["time"] - at["first"]["time"]),
        "epoch_memory": at["last"]["memory"],
        "scoring_rate": audio / (at["end"]["time"] - at["dev"]["time"]),
        "scoring_memory": at["end"]["memory"],
    }


def make_corpus(folder: Path, utterances: int) -> None:
    """A recording, and manifests of segments of it: train and test of so many each, dev of ten."""
    import numpy as np
    import soundfile

    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    soundfile.write(folder / "noise.wav", 0.1 * rng.standard_normal(SECONDS * RATE), RATE, subtype="PCM_16")
    for split, count in (("train", utterances), ("dev", 10), ("test", utterances)):
        lengths = rng.uniform(0.5, 1.5, count)
        lengths *= count / lengths.sum()
        starts = rng.uniform(0, SECONDS - 2, count)
        with (folder / f"{split}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("id", "file", "text", "speaker", "start", "end"))
            for i in range(count):
                text = " ".join(rng.choice(WORDS, 2))
                rows.writerow(
                    (
                        f"{split}-{i}",
                        "noise.wav",
                        text,
                        f"s{i % 100}",
                        f"{starts[i]:.4f}",
                        f"{starts[i] + lengths[i]:.4f}",
                    )
                )


def watch(folder: Path) -> None:
    """The run itself, in a process of its own; a tracker notes the time and the peak of memory at what
    divides its parts.
    """
    from asr_exp.cli.main import main as program
    from asr_exp.training.trackers import register_tracker

    noted: dict[str, dict[str, float]] = {}

    def note(name: str) -> None:
        noted[name] = {"time": time.time(), "memory": memory_of("VmHWM")}
        if name != "last":  # which is noted again at the next step
            forget_peak()

    @register_tracker("scale")
    class Notes:
        def __init__(self, *_: Any, **__: Any):
            self.steps = 0

        def log(self, metrics: Mapping[str, Any], step: int) -> None:
            if "train/lr" in metrics:
                note("last" if self.steps else "first")
                self.steps += 1
            elif "dev/loss" in metrics or "dev/wer" in metrics:
                note("dev")

        def table(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
            pass

        def finish(self, summary: Mapping[str, Any], failed: bool) -> None:
            note("end")

    splits = [f"dataset.{name}={folder / name}.csv" for name in ("train", "dev", "test")]
    asked = [
        "dataset=csv",
        *splits,
        "dataset.columns.id=id",
        "model=tiny-random",
        "trainer.max_epochs=1",
        "trainer.max_steps=null",
        "trainer.batch_seconds=100",
        "trainer.log_every=1",
        "trainer.precision=fp32",
        "tracking.name=scale",
        f"output_root={folder / 'outputs'}",
    ]
    if status := program(asked):
        raise SystemExit(status)
    (folder / "found.json").write_text(json.dumps(noted))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
