"""What one would run otherwise: the Trainer of transformers, the way its CTC fine-tuning example uses it; and
the same with care.

`hf` follows the commands the examples page publishes, which group batches by length and name a column
`input_length` for it (transformers 5 drops that column before its sampler looks for it, and reads every
recording instead): features as lists of floats in Arrow, no data loader worker, all logits gathered before
they are decoded. `hf-tuned` changes what a careful user changes without a training loop of their own: arrays
instead of lists, lengths that reach the sampler, the faster of two attention implementations, a worker that
loads ahead, scoring in the order of length, argmax before logits are gathered.
"""

import csv
import time
from pathlib import Path
from typing import Any

import datasets
import jiwer
import numpy as np
import soundfile
import torch
import transformers

from benchmarks.arm import Clock, Task


class Collator:
    """Pads a batch: audio with zeros, labels with -100. Columns that are not for the model are left out."""

    def __init__(self, processor: Any):
        self.processor = processor

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        audio = [{"input_values": row["input_values"]} for row in rows]
        batch = self.processor.feature_extractor.pad(audio, padding="longest", return_tensors="pt")
        labels = self.processor.tokenizer.pad(
            [{"input_ids": row["labels"]} for row in rows], padding="longest", return_tensors="pt"
        )
        batch["labels"] = labels["input_ids"].masked_fill(labels["attention_mask"] != 1, -100)
        return batch


class StepTimes(transformers.TrainerCallback):
    """Notes when each optimiser step is over."""

    def __init__(self, task: Task, clock: Clock):
        self.task, self.clock = task, clock

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.clock.step(state.global_step, self.task.steps)


def run(task: Task, clock: Clock) -> None:

    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    transformers.set_seed(task.seed)
    clock.mark("imported")
    processor = transformers.Wav2Vec2Processor.from_pretrained(task.model)
    if task.kind.startswith("attention"):
        _time_attention(task, clock, processor)
        return
    trainer = _trainer(task, clock, processor)
    if task.kind == "evaluate":
        clock.loaded(trainer.model.parameters())
        for manifest in (task.train, task.test):  # the first, a few utterances, to warm up
            data = _dataset(task, processor, manifest, sort=True)
            clock.mark("began")
            scores = trainer.evaluate(data)
            clock.mark("ended")
        assert scores["eval_utterances"] == len(data)
        clock.found |= {"audio": _seconds(data), "wer": scores["eval_wer"]}
        return
    trainer.train()
    audio = _seconds(trainer.train_dataset) * task.total / task.steps
    clock.found |= {"audio": audio, "optimiser_steps": trainer.state.global_step}
    if task.kind == "learn":
        scores = trainer.evaluate(_dataset(task, processor, task.test, sort=True))
        clock.found["wer"] = scores["eval_wer"]


def rows_of(manifest: str) -> list[dict[str, str]]:
    """The rows of a manifest, paths made whole."""
    with open(manifest, encoding="utf-8", newline="") as file:
        return [{**row, "file": str(Path(manifest).parent / row["file"])} for row in csv.DictReader(file)]


def _dataset(task: Task, processor: Any, manifest: str, sort: bool = False) -> Any:
    """A manifest as features and labels. As shipped, a row is a list of Python floats each time it is
    read.
    """
    rows = datasets.Dataset.from_list(rows_of(manifest))

    def prepare(row: dict[str, Any]) -> dict[str, Any]:
        samples, rate = soundfile.read(row["file"], dtype="float32")
        values = processor.feature_extractor(samples, sampling_rate=rate).input_values[0]
        return {
            "input_values": values,
            "input_length": len(values),
            "labels": processor.tokenizer(row["text"]).input_ids,
        }

    cache = Path(task.folder) / f"{Path(manifest).stem}.arrow"
    data = rows.map(prepare, remove_columns=rows.column_names, cache_file_name=str(cache))
    if task.arm == "hf-tuned":
        data = data.sort("input_length", reverse=True) if sort else data
        data = data.with_format("numpy")
    return data


def _seconds(data: Any) -> float:
    return float(np.sum(data["input_length"])) / 16000


def _trainer(task: Task, clock: Clock, processor: Any) -> Any:
    tuned = task.arm == "hf-tuned"
    evaluating = task.kind == "evaluate"
    arguments = transformers.TrainingArguments(
        output_dir=f"{task.folder}/trainer",
        per_device_train_batch_size=task.batch,
        per_device_eval_batch_size=32 if tuned and task.device == "cuda" else 8,
        max_steps=task.total,
        learning_rate=task.learning_rate,
        warmup_steps=task.warmup,
        bf16=task.precision == "bf16",
        use_cpu=task.device == "cpu",
        train_sampling_strategy="random" if tuned and evaluating else "group_by_length",
        length_column_name="input_length",
        remove_unused_columns=not tuned,
        dataloader_num_workers=task.workers if tuned else 0,
        # they would keep scoring the first set they were given
        dataloader_persistent_workers=tuned and not evaluating,
        seed=task.seed,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    return transformers.Trainer(
        model=network_of(task, processor, task.attention if tuned else None),
        args=arguments,
        data_collator=Collator(processor),
        train_dataset=None if evaluating else _dataset(task, processor, task.train),
        processing_class=processor.feature_extractor,
        compute_metrics=_metrics(processor, tuned),
        preprocess_logits_for_metrics=_likeliest if tuned else None,
        callbacks=[StepTimes(task, clock)],
    )


def network_of(task: Task, processor: Any, attention: str | None, mask_time_prob: float = 0.05) -> Any:
    """The initial weights; masks and dropouts as the example script sets them, the front end frozen."""
    none = (
        "attention_dropout",
        "hidden_dropout",
        "activation_dropout",
        "feat_proj_dropout",
        "final_dropout",
        "layerdrop",
    )
    network = transformers.AutoModelForCTC.from_pretrained(
        task.model,
        dtype=torch.float32,
        attn_implementation=attention,
        pad_token_id=processor.tokenizer.pad_token_id,
        ctc_loss_reduction="mean",
        mask_time_prob=mask_time_prob,
        mask_time_length=task.mask_length,
        mask_feature_prob=0.0,
        **dict.fromkeys(none, 0.0),
    )
    network.freeze_feature_encoder()
    return network


def _likeliest(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.argmax(-1)


def _metrics(processor: Any, chosen: bool) -> Any:
    """WER of gathered logits, or of labels already chosen."""

    def compute(found: Any) -> dict[str, float]:
        labels = found.predictions if chosen else np.argmax(found.predictions, axis=-1)
        blank = processor.tokenizer.pad_token_id
        said = processor.tokenizer.batch_decode(np.where(labels == -100, blank, labels))
        meant = processor.tokenizer.batch_decode(
            np.where(found.label_ids == -100, blank, found.label_ids), group_tokens=False
        )
        return {"wer": jiwer.wer(meant, said), "utterances": len(said)}

    return compute


def _time_attention(task: Task, clock: Clock, processor: Any) -> None:
    """Seconds of a pass by either attention implementation, with a backward pass where a row trains: the best
    of three.
    """
    trains = task.kind == "attention-train"
    data = _dataset(task, processor, task.train if trains else task.test).with_format("numpy")
    batch = Collator(processor)([data[i] for i in range(min(task.batch, len(data)))])
    batch = {name: tensor.to(task.device) for name, tensor in batch.items()}
    for attention in ("sdpa", "eager"):
        network = network_of(task, processor, attention).to(task.device).train(trains)
        times = []
        for _ in range(4):
            clock.settle()
            began = time.perf_counter()
            with (
                torch.set_grad_enabled(trains),
                torch.autocast(task.device, dtype=torch.bfloat16, enabled=task.precision == "bf16"),
            ):
                loss = network(**batch).loss
            if trains:
                loss.backward()
            clock.settle()
            times.append(time.perf_counter() - began)
        clock.found[attention] = min(times[1:])
