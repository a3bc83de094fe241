"""The arm that is measured: asr_exp by its own command line, with a tracker that notes when each step was
over.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asr_exp.cli.main import main
from asr_exp.training.trackers import register_tracker
from benchmarks.arm import Clock, Task

_watching: list[tuple[Task, Clock]] = []


@register_tracker("benchmark")
class StepTimes:
    """Notes steps as they are logged: with trainer.log_every=1 that is when each is over."""

    def __init__(self, *_: Any, **__: Any):
        self.task, self.clock = _watching[-1]

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        if "train/lr" in metrics:
            self.clock.step(step, self.task.steps)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        pass

    def finish(self, summary: Mapping[str, Any], failed: bool) -> None:
        pass


def watch(task: Task, clock: Clock) -> None:
    """From here on, steps are noted on this clock."""
    _watching.append((task, clock))


def settings(task: Task) -> list[str]:
    """The run as one would type it."""
    return [
        "dataset=csv",
        f"dataset.train={task.train}",
        f"dataset.dev={task.test}",
        f"dataset.test={task.test}",
        "model=hf",
        f"model.checkpoint={task.model}",
        "model.head=keep",
        "augment=light",
        f"augment.mask_time_length={task.mask_length}",
        f"optimizer.lr={task.learning_rate}",
        f"schedule.warmup_steps={task.warmup}",
        f"trainer.batch_seconds={task.seconds / task.steps * 1.0001:.6f}",
        f"trainer.max_steps={task.total}",
        f"trainer.eval_every={task.total}",
        f"trainer.precision={task.precision}",
        f"trainer.device={task.device}",
        "trainer.examples=0",
        f"trainer.log_every={1 if task.device == 'cpu' else task.steps}",
        f"seed={task.seed}",
        f"output_root={task.folder}/outputs",
        f"cache_root={task.folder}/cache",
        "tracking.name=benchmark",
        "tracking.audio_examples=0",
        "plugins=[benchmarks.ours]",
    ]


def run(task: Task, clock: Clock) -> None:
    main(["--version"])  # the process is set up as the command line sets it up, before torch is loaded
    import transformers.models.wav2vec2.modeling_wav2vec2  # noqa: F401

    watch(task, clock)
    clock.mark("imported")
    if task.kind == "evaluate":
        _evaluate(task, clock)
        return
    if status := main(settings(task)):
        raise SystemExit(status)
    (result,) = Path(task.folder).glob("outputs/*/*/*/result.json")
    found = json.loads(result.read_text(encoding="utf-8"))
    trained, scored = found["train"], found["splits"]["test"]
    clock.found |= {
        "audio": trained["audio_seconds"],
        "optimiser_steps": trained["steps"],
        "wer": scored["wer"],
    }


def _evaluate(task: Task, clock: Clock) -> None:
    """What `evaluate` does to a split, once to warm up with a few utterances and once to be timed."""
    from asr_exp.builders.data import build_data, build_split
    from asr_exp.builders.model import build_recogniser
    from asr_exp.config.compose import compose, validate
    from asr_exp.decoding.decoders import make_decoder
    from asr_exp.evaluation.evaluate import EvaluationSettings, evaluate
    from asr_exp.model.pretrained.vocabulary import read_tokenizer
    from asr_exp.runtime.distributed import started

    config = compose(settings(task))
    validate(config)
    data = build_data(config)
    tokenizer = read_tokenizer(task.model, None, config.tokenizer.unit)
    with started(task.device, task.precision) as runtime:
        model = build_recogniser(config, tokenizer, runtime, checkpoint=Path(task.model))
        decoder = make_decoder(config.decode.name, tokenizer, {})
        clock.loaded(model.parameters())
        for name in ("train", "test"):  # the first, a few utterances, to warm up
            split = build_split(config, data, name, tokenizer, model, False)
            clock.mark("began")
            scored = EvaluationSettings(
                config.trainer.device_seconds,
                config.trainer.loss_reduction,
                Path(task.folder) / f"hypotheses.{name}.jsonl",
            )
            found = evaluate(model, split, decoder, runtime, scored)
            clock.mark("ended")
    clock.found |= {"audio": float(split.seconds.sum()), "wer": found.summary["wer"]}
