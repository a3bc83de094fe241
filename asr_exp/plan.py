"""What a run is about to do: every number that was derived, before step 1."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig

from asr_exp import console
from asr_exp.assembly import Data
from asr_exp.data.prepare import Split
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.job import Job
from asr_exp.scoring import READ_CER, unspaced

log = logging.getLogger(__name__)


def announce(config: DictConfig, folder: Path, data: Data, splits: Mapping[str, Split], tokenizer: Tokenizer, job: Job) -> None:
    """Tell of the data, the model, the batches and the steps."""
    runtime, plan, network = job.runtime, job.plan, job.model.network
    parameters = sum(p.numel() for p in network.parameters())
    trained = sum(p.numel() for p in job.trained)
    passes, epochs = plan.passes(1, 0, runtime.world), job.total / plan.steps_per_epoch
    share = float(plan.costs[plan.step(1)].sum()) / runtime.world
    memory = console.size(expected_memory(job, min(share, config.trainer.device_seconds)))
    rows = [("run", str(folder)), *(_size(data, split) for split in splits.values()), _vocabulary(tokenizer)]
    rows += [
        ("model", f"{network.config.model_type}, {parameters / 1e6:.2f} M parameters: {trained / 1e6:.2f} M trained, "
                  f"{(parameters - trained) / 1e6:.2f} M frozen"),
        ("batch", f"{_step_size(config)} a step; step 1: {console.counted(len(plan.step(1)), 'utterance')}, "
                  f"{len(passes)} forward pass{'es' * (len(passes) > 1)} a rank"),
        ("steps", f"{job.total:,} = {epochs:.1f} epochs of {plan.steps_per_epoch:,}; dev every {job.eval_every:,}"),
        ("device", f"{runtime.world} x {runtime.device.type}, {runtime.precision}" + ", fsdp" * job.sharded),
        ("memory", f"about {memory} a device, by formula"),
    ]
    console.page(f"{config.dataset.name} x {config.model.name}", rows)
    log.info("")
    if unspaced(splits["test"].references(first=1000)):
        log.warning(READ_CER)


def announce_scoring(config: DictConfig, folder: Path, data: Data, split: Split, tokenizer: Tokenizer) -> None:
    """Tell of a checkpoint that is to be scored as it is."""
    console.page(f"{config.dataset.name} x {config.model.checkpoint}", [
        ("run", str(folder)), _size(data, split), _vocabulary(tokenizer), ("steps", "none: the checkpoint is scored as it is"),
    ])  # fmt: skip


def _size(data: Data, split: Split) -> tuple[str, str]:
    left_out = f"; {len(split.rejected)} left out, see quarantine.jsonl" if split.rejected else ""
    subsets = "+".join(data.corpus.subsets.get(split.name, [split.name]))
    return split.name, f"{console.counted(len(split), 'utterance')}, {console.duration(split.seconds.sum())} ({subsets}){left_out}"


def _vocabulary(tokenizer: Tokenizer) -> tuple[str, str]:
    unit = "phones" if tokenizer.unit == "phone" else "characters"
    shown = " ".join(t.strip() for t in tokenizer.tokens[:16]) + (" ..." if len(tokenizer) > 16 else "")
    return "vocabulary", f"{len(tokenizer)} tokens ({unit}): {shown}"


def _step_size(config: DictConfig) -> str:
    seconds, utterances = config.trainer.batch_seconds, config.trainer.batch_utterances
    return console.counted(utterances, "utterance") if seconds is None else f"{seconds:g} s of audio"


def expected_memory(job: Job, seconds: float) -> float:
    """A rough forecast, in bytes: fp32 weights, gradients and two moments, and the activations of the largest forward pass."""
    c, wide = job.model.network.config, 4 if job.runtime.precision == "fp32" else 2
    fixed = 4 * sum(p.numel() for p in job.model.parameters()) + 12 * sum(p.numel() for p in job.trained)
    fixed /= job.runtime.world if job.sharded else 1
    frames = job.model.frames(int(seconds * job.model.extractor.sampling_rate))
    encoder = c.num_hidden_layers * frames * (14 * c.hidden_size + 3 * c.intermediate_size) * wide
    rates = [math.prod(c.conv_stride[: i + 1]) for i in range(len(c.conv_stride))]
    front = sum(2 * seconds * job.model.extractor.sampling_rate / r * d * wide for r, d in zip(rates, c.conv_dim, strict=True))
    return fixed + encoder + front
