"""A run without a step: a fine-tuned checkpoint is scored as it is."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from asr_exp.builders.fine_tuned import FineTuned
from asr_exp.builders.plan import announce_scoring
from asr_exp.builders.rescoring import Scoring, read_split, untrained_result
from asr_exp.commands.train.record import RunRecord
from asr_exp.core import console
from asr_exp.core.files import write_folder, write_text
from asr_exp.evaluation.evaluate import table_rows
from asr_exp.runs.results import write_quarantine
from asr_exp.runtime.distributed import Runtime


def score_untrained(config: DictConfig, folder: Path, runtime: Runtime, record: RunRecord) -> dict[str, Any]:
    """Score the checkpoint of the config on the test split, and read no other split. Every rank takes part.

    Returns what result.json says of it. Raises UserError for a checkpoint that cannot be scored.
    """
    source = FineTuned(config, runtime, config.model.checkpoint)
    data = record.keep(read_split(config, "test", source, runtime))
    scoring = Scoring(config, folder, source, data, "test", runtime)
    split, audible = scoring.split, config.tracking.audio_examples
    _ = source.network  # loaded on every rank, even where all emissions are on the disk
    if runtime.main:
        write_quarantine(folder, {"test": split.rejected})
        write_text(folder / "metrics.jsonl", "")
        write_folder(folder / "checkpoints" / "best", source.save)
        announce_scoring(config, folder, data, split, source.tokenizer)
    evaluation = scoring.run(folder / "hypotheses.test.jsonl", max(config.trainer.examples, audible))
    rows = table_rows(evaluation.examples, split, audible)
    record.tracker.table("test/hypotheses", rows, 0)
    console.show_examples(evaluation.examples, config.trainer.examples)
    return untrained_result(folder, scoring, evaluation.summary)
