"""Step time and memory of two processes against one, on CPUs: `python -m benchmarks.ranks --help`.

Each process has one thread and the same audio, so that with summing for free two would take as long as one.
`apart` is two processes that know nothing of each other: what the machine itself takes for running both at
once.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks import probe, report
from benchmarks.arm import memory_of

# processes, world, strategy
ARRANGEMENTS = {"one": (1, 1, "ddp"), "apart": (2, 1, "ddp"), "ddp": (2, 2, "ddp"), "fsdp": (2, 2, "fsdp")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--hidden",
        type=int,
        default=768,
        help="width of the wav2vec 2.0 encoder (768: 94 M parameters with 12 layers)",
    )
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=10.0, help="an utterance's length")
    parser.add_argument(
        "--utterances", type=int, default=2, help="of a process in a step, a forward pass each"
    )
    parser.add_argument("--steps", type=int, default=4, help="timed in each round, after one that is not")
    parser.add_argument("--rounds", type=int, default=3, help="all arrangements in turn, so often")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument(
        "--memory", action="store_true", help="measure memory: glibc gives it back at once, which takes time"
    )
    parser.add_argument("--only", nargs="*", default=list(ARRANGEMENTS), choices=list(ARRANGEMENTS))
    parser.add_argument(
        "--out", help="folder that RANKS.md is written to, for `benchmarks` the one in the repository"
    )
    parser.add_argument("--strategy", help=argparse.SUPPRESS)  # what a process of an arrangement is told
    options = parser.parse_args()
    if options.strategy:
        print(json.dumps(measured(options)))
        return
    if options.memory:
        os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in options.only}
    for _ in range(options.rounds):
        for name in options.only:
            seen[name] += run(*ARRANGEMENTS[name])
    page = "\n".join([*HEAD, *lines(seen)])
    print(page)
    if options.out:
        words = [word for word in sys.argv[1:] if not word.startswith("--out") and word != options.out]
        command = " ".join(["python -m benchmarks.ranks", *words])
        title = TITLE.format(command=command, date=report.today(), machine=probe.processor(), **vars(options))
        (Path(options.out) / "RANKS.md").write_text(f"{title}{page}\n", encoding="utf-8")


TITLE = """# Two processes against one

Made by `{command}` on {date}, on two cores of an {machine}; do not edit. A wav2vec 2.0 of {layers} layers, {hidden} wide, {precision};
a process has one thread and hears {utterances} utterances of {seconds:g} s a step; medians of {rounds} rounds of {steps} steps.

- *one*: a process alone. *apart*: two that know nothing of each other, what the machine takes for running both at once. *ddp*, *fsdp*:
  two that sum their gradients, or share weights and moments as well.
- *of the ideal*: the step of *apart* over the arrangement's own; what is lost is the price of working together.

"""
HEAD = [
    "| | step, s | CPU s a process | of the ideal | held, MB | peak of steps, MB | of a checkpoint, MB |",
    "|---|---|---|---|---|---|---|",
]


def lines(seen: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A row for each arrangement, of what its processes have measured."""
    steps = {name: statistics.median(t for one in ranks for t in one["wall"]) for name, ranks in seen.items()}
    made = []
    for name, ranks in seen.items():
        busy = statistics.median(t for one in ranks for t in one["cpu"])
        held, peak, saving = (max(one[key] for one in ranks) / 1e6 for key in ("held", "peak", "saving"))
        ideal = f"{steps['apart'] / steps[name]:.0%}" if "apart" in steps else ""
        made.append(
            f"| {name} | {steps[name]:.3f} | {busy:.3f} | {ideal} | {held:.0f} | {peak:.0f} | {saving:.0f} |"
        )
    return made


def run(processes: int, world: int, strategy: str) -> list[dict[str, Any]]:
    """An arrangement's processes to their end -> what each has measured."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world),
    }
    started = [
        subprocess.Popen([sys.executable, "-m", "benchmarks.ranks", *sys.argv[1:], "--strategy", strategy],
                         env={**shared, "RANK": str(rank % world)}, stdout=subprocess.PIPE, text=True)
        for rank in range(processes)
    ]  # fmt: skip
    made = [process.communicate()[0] for process in started]
    assert not any(process.returncode for process in started), made
    return [json.loads(out.splitlines()[-1]) for out in made]


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """The steps of one process: seconds of each (wall, CPU), bytes of weights and optimizer held, peaks of
    resident memory.
    """
    from asr_exp.data.batch import collate
    from asr_exp.runtime.distributed import started
    from asr_exp.runtime.fsdp import gathered
    from asr_exp.training.loop import train_step

    with started("cpu", options.precision) as runtime:
        job = build(options, runtime)
        wall, cpu = [], []
        forget_peak()
        for step in range(1, options.steps + 2):
            batches = [
                collate(job.split, p, job.masks, step)
                for p in job.plan.micro_batches(step, runtime.rank, runtime.world)
            ]
            runtime.all_reduce_max(0)  # begin together
            before = time.perf_counter(), time.process_time()
            train_step(job, step, batches)
            runtime.all_reduce_max(0)
            wall.append(time.perf_counter() - before[0])
            cpu.append(time.process_time() - before[1])
        peak = memory_of("VmHWM")
        forget_peak()
        gathered(
            {"weights": job.model.network.state_dict(), "optimizer": job.optimizer.state_dict()}, runtime.main
        )
        moments = [t for one in job.optimizer.state.values() for t in one.values()]
        held = sum(local(t).nbytes for t in (*job.model.parameters(), *moments))
        return {"wall": wall[1:], "cpu": cpu[1:], "held": held, "peak": peak, "saving": memory_of("VmHWM")}


def build(options: argparse.Namespace, runtime: Any) -> Any:
    """A training job on noise: a network with random weights, utterances of one length."""
    import numpy as np

    from asr_exp.builders.training import build_training
    from asr_exp.config.compose import compose
    from asr_exp.data.tokenizer import Tokenizer
    from asr_exp.model.freezing import freeze
    from asr_exp.model.loading import load_backbone
    from asr_exp.model.model_config import ModelSettings
    from asr_exp.model.recogniser import Recogniser

    count, rng = options.utterances * runtime.world, np.random.default_rng(0)
    config = compose(
        [
            f"trainer.strategy={options.strategy}",
            "trainer.max_steps=100",
            "trainer.batch_seconds=null",
            f"trainer.batch_utterances={count}",
            f"trainer.device_seconds={options.seconds}",
        ]
    )
    tokenizer = Tokenizer.build(["abcdefghij klmnopqrst uvwxyz"], "character")
    sizes = {
        "hidden_size": options.hidden,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.hidden // 64,
        "intermediate_size": 4 * options.hidden,
    }
    settings = ModelSettings(architecture="wav2vec2", config=sizes)
    network, extractor = load_backbone(settings, len(tokenizer), tokenizer.blank)
    freeze(network, True, [])
    model = Recogniser(network, extractor)
    clips = rng.integers(-3000, 3000, (count, round(options.seconds * 16000)), dtype=np.int16)
    labels = [rng.integers(4, len(tokenizer), 40) for _ in range(count)]
    split: Any = SimpleNamespace(
        seconds=np.full(count, options.seconds), clips=clips.__getitem__, labels=labels.__getitem__
    )
    return build_training(config, split, tokenizer, model, runtime)


def local(tensor: Any) -> Any:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def forget_peak() -> None:
    """Have the kernel count the peak of resident memory from here."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


if __name__ == "__main__":
    main()
