"""Prepare the data, train, score the best checkpoint on the test split and write the result.

The same settings lead to the same run folder: a run that was stopped or killed goes on, a finished one says
so. With model.head=keep trainer.max_steps=0 the checkpoint is scored as it is, and no more is read than the
test split.
"""

from pathlib import Path

from omegaconf import DictConfig

from asr_exp.builders.changed_data import check_unchanged
from asr_exp.builders.data import build_data, build_split, build_tokenizer
from asr_exp.builders.decoder import build_decoder, build_protocol
from asr_exp.builders.model import build_recogniser, model_settings
from asr_exp.builders.plan import announce, check_vocabulary
from asr_exp.builders.selection import resume_with_metric
from asr_exp.builders.session import cache_folder, run_session
from asr_exp.builders.training import build_training
from asr_exp.commands.train.record import run_record, training_summary, write_rejected
from asr_exp.commands.train.scoring import Scorer, conclude, open_hooks
from asr_exp.commands.train.untrained import score_untrained
from asr_exp.core import console
from asr_exp.model.loading import check_checkpoint
from asr_exp.runs.earlier_rules import finished_by_earlier_rules
from asr_exp.runs.folder import is_config_whole, run_folder, write_config
from asr_exp.runs.results import read_result
from asr_exp.runs.untrained import trains_nothing
from asr_exp.runtime.copies import no_copies, this_task
from asr_exp.runtime.distributed import is_main, under_torchrun
from asr_exp.runtime.launcher import launch, task_overrides
from asr_exp.training.checkpoint import load_weights
from asr_exp.training.loop import fit


def run(config: DictConfig) -> int:
    """Train the run that a config describes, on every rank, and return the exit status.

    Raises UserError for what the user can mend, Stopped after a signal, Pruned where the sweep ends the run.
    """
    folder = run_folder(config)
    if _is_finished(config, folder):
        return 0
    # A checkpoint that cannot be loaded is reported before the data is read.
    check_checkpoint(model_settings(config))
    if config.trainer.devices > 1 and not under_torchrun():
        return _launch(config, folder)
    single = no_copies(folder, this_task())
    with single, run_session(config, folder) as runtime, run_record(config, folder, runtime) as record:
        if trains_nothing(config):
            record.result = score_untrained(config, folder, runtime, record)
            return 0

        # 1. The data: transcripts after the text rules; no audio is decoded yet.
        data = record.keep(build_data(config, fingerprint=runtime.main))

        # 2. The tokenizer, and what it cannot write of the transcripts.
        tokenizer = build_tokenizer(config, data)
        check_vocabulary(config, data, tokenizer, ["dev", "test"], runtime.main, train=True)

        # 3. The model. It tells how many frames a recording has, so the splits are prepared after it.
        model = build_recogniser(config, tokenizer, runtime)
        splits = {
            name: build_split(config, data, name, tokenizer, model, runtime.main, name == "train")
            for name in ("train", "dev", "test")
        }

        # 4. The setup of the training loop, and its state: new, or that of the last checkpoint.
        setup = build_training(config, splits["train"], tokenizer, model, runtime, cache_folder(config))
        state = resume_with_metric(config, folder, setup, splits["dev"])
        if runtime.main:
            write_rejected(folder, splits)
            announce(config, folder, data, splits, tokenizer, setup)
        decoder = build_decoder(config, tokenizer, runtime, folder, data)

        # 5. Fit: train, score dev now and then, keep the best checkpoint.
        scorer = Scorer(config, folder, tokenizer, setup, decoder, record.tracker)
        with open_hooks(scorer, splits, state) as hooks:
            with splits["train"].decoding_in_background():
                fit(setup, state, hooks)
            conclude(scorer, state, hooks)

        # 6. Test: score the best checkpoint with the decoder of the config.
        runtime.broadcast(None)  # rank 0 has written the checkpoint before another rank reads it
        load_weights(folder / "checkpoints" / "best", model.network, checked=True)
        scorer.tune(splits["dev"])
        scores = scorer.score_best(splits, state)

        # 7. The result, which the record writes once nothing can fail any more.
        record.result = {
            "protocol": build_protocol(config, data, splits["test"], decoder),
            "splits": {"dev": state.best["summary"], **scores},
            **training_summary(setup, state),
        }
    return 0


def _launch(config: DictConfig, folder: Path) -> int:
    """Start the ranks of the run on this machine, and return their exit status."""
    with no_copies(folder, this_task()):
        return launch(config.trainer.devices, "train", task_overrides())


def _is_finished(config: DictConfig, folder: Path) -> bool:
    """Whether the run has its score on test already, which rank 0 then prints."""
    result = read_result(folder)
    # `evaluate` may have scored dev alone of a checkpoint
    score = ((result or {}).get("splits") or {}).get("test")
    if not (result and result["status"] == "finished" and score):
        if not result and is_main() and (earlier := finished_by_earlier_rules(config)):
            choice, place = earlier
            print(f"By the text rules of before, this run is finished: text={choice} shows it, in {place}.")
        return False
    try:
        headline = console.headline("test", score)
    except (KeyError, TypeError):  # it lacks an entry, so it is written anew
        return False
    if is_main():
        if not is_config_whole(folder):
            write_config(folder, config)
        check_unchanged(config, folder, result)
        print(f"This run is finished (delete its folder to run it again): {folder}")
        print(headline)
        if config.trainer.profile:
            print("No step was run, so none was profiled; profile.txt there, if any, is from when it ran.")
    return True
