"""Prepare the data, train, score the best checkpoint on the test split and write the result.

The same settings lead to the same run folder: a run that was stopped or killed goes on, a finished one says
so. With model.head=keep trainer.max_steps=0 the checkpoint is scored as it is, and no more is read than the
test split.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from asr_exp.builders.data import build_data, build_split, build_tokenizer
from asr_exp.builders.decoder import build_decoder, build_protocol
from asr_exp.builders.fine_tuned import FineTuned
from asr_exp.builders.model import build_recogniser, model_arguments
from asr_exp.builders.plan import announce, announce_scoring, check_vocabulary
from asr_exp.builders.rescoring import Scoring, read_split, untrained_result
from asr_exp.builders.session import cache_folder, run_session
from asr_exp.builders.training import build_training
from asr_exp.core import console
from asr_exp.core.errors import Pruned, Stopped, UserError
from asr_exp.core.files import write_folder, write_text
from asr_exp.core.log import log_to_file
from asr_exp.data.prepare import Split
from asr_exp.decoding.beam import Beam
from asr_exp.decoding.decoders import Decoder, Greedy
from asr_exp.evaluation.decoder_tuning import tune_on_dev
from asr_exp.evaluation.emission_cache import EmissionStore, checkpoint_hash
from asr_exp.evaluation.evaluate import Evaluation, EvaluationSettings, evaluate, table_rows
from asr_exp.model.loading import check_checkpoint
from asr_exp.model.recogniser import Recogniser
from asr_exp.runs.environment import environment, versions
from asr_exp.runs.folder import resolve, run_folder, signature
from asr_exp.runs.results import DEV_CANDIDATE, LOSSES, read_result, write_quarantine, write_result
from asr_exp.runs.untrained import trains_nothing
from asr_exp.runtime.distributed import Runtime, is_main, peer_lost, under_torchrun
from asr_exp.runtime.fsdp import whole
from asr_exp.runtime.launcher import launch, task_overrides
from asr_exp.sweeps.study import Pruner
from asr_exp.training.checkpoint import (
    RECENT,
    average_recent,
    keep_weights,
    load_weights,
    resume,
    save_checkpoint,
)
from asr_exp.training.loop import fit, score
from asr_exp.training.setup import TrainingSetup
from asr_exp.training.state import Hooks, State, save
from asr_exp.training.trackers import MetricsFile, NoTracker, Profile, Tracker, make_tracker

log = logging.getLogger(__name__)


def run(config: DictConfig) -> int:
    """Train the run that a config asks for -> exit status. Raises UserError and Stopped."""
    folder = run_folder(config)
    done = read_result(folder)
    # `evaluate` may have scored dev alone of a checkpoint
    if done and done["status"] == "finished" and "test" in done["splits"]:
        if is_main():
            print(f"This run is finished (delete its folder to run it again): {folder}")
            print(console.headline("test", done["splits"]["test"]))
            if config.trainer.profile:
                print(
                    "No step was run, so none was profiled; profile.txt there, if any, is from when it ran."
                )
        return 0
    # a checkpoint that cannot be had is better known before the data is read
    check_checkpoint(**model_arguments(config))
    if config.trainer.devices > 1 and not under_torchrun():
        return launch(config.trainer.devices, "train", task_overrides())
    with run_session(config, folder) as runtime:
        if runtime.main:
            _recorded(config, folder, runtime)
        else:
            (_score if trains_nothing(config) else _train)(config, folder, runtime, NoTracker())
    return 0


def _recorded(config: DictConfig, folder: Path, runtime: Runtime) -> None:
    """Train with a log, a tracker and a result.json that says how it ended, whatever happens."""
    log_to_file(folder / "train.log")
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(resolve(config))))
    write_text(folder / "environment.json", console.pretty_json(environment(runtime)))
    base = {
        "signature": signature(config),
        "rehearsal": config.rehearsal,
        "seed": config.seed,
        "versions": versions(),
    }
    title = f"{config.dataset.name}/{config.model.name}"
    tracker = make_tracker(
        **config.tracking, folder=folder, run_id=base["signature"], run_name=title, config=resolve(config)
    )
    failed = True
    result: dict[str, Any] = {}
    try:
        result = {**base, **(_score if trains_nothing(config) else _train)(config, folder, runtime, tracker)}
        write_result(folder, {"status": "finished", **result})
        failed = False
        _summary(folder, result)
    except BaseException as why:
        status = "stopped" if isinstance(why, Stopped | Pruned | KeyboardInterrupt) else "failed"
        with suppress(OSError):  # a full disk must not hide why
            write_result(folder, {"status": status, "reason": f"{type(why).__name__}: {why}", **base})
        if not isinstance(why, UserError | Stopped | Pruned | KeyboardInterrupt) and not peer_lost(why):
            log.exception("The run failed")
        raise
    finally:
        tracker.finish(
            {
                f"test/{k}": v
                for k, v in result.get("splits", {}).get("test", {}).items()
                if isinstance(v, float)
            },
            failed,
        )


def _train(config: DictConfig, folder: Path, runtime: Runtime, tracker: Tracker) -> dict[str, Any]:
    """The run itself, on every rank -> what result.json says of it."""
    data = build_data(config)
    tokenizer = build_tokenizer(config, data)
    check_vocabulary(config, data, tokenizer, ["dev", "test"], runtime.main, train=True)
    model = build_recogniser(config, tokenizer, runtime)
    splits = {
        name: build_split(config, data, name, tokenizer, model, runtime.main, name == "train")
        for name in ("train", "dev", "test")
    }
    job = build_training(config, splits["train"], tokenizer, model, runtime, cache_folder(config))
    state = resume(folder, job)
    if runtime.main:
        _quarantine(folder, splits)
        announce(config, folder, data, splits, tokenizer, job)
    final = build_decoder(config, tokenizer, runtime, folder, data)
    # beam search is for the final scores: dev is scored often
    decoder = Greedy(tokenizer) if isinstance(final, Beam) else final

    def scored(split: Split, path: Path | None, step: int, examples: int) -> Evaluation:
        with whole(model):
            settings = EvaluationSettings(
                config.trainer.device_seconds,
                config.trainer.loss_reduction,
                path,
                max(examples, config.tracking.audio_examples),
            )
            found = evaluate(model, split, decoder, runtime, settings)
        audible = config.tracking.audio_examples if split.name == "test" else 0  # once: sound is large
        tracker.table(f"{split.name}/hypotheses", table_rows(found.examples, split, audible), step)
        return found

    def on_dev(step: int) -> Evaluation:
        found = scored(splits["dev"], folder / DEV_CANDIDATE, step, config.trainer.examples)
        if config.trainer.average > 1 and not state.averaged:
            keep_weights(folder, job, step, config.trainer.average)
        log.info(
            "step %d/%d  dev %s  loss %s",
            step,
            job.total,
            console.rates(found.summary),
            console.number(found.loss),
        )
        console.show_examples(found.examples, config.trainer.examples)
        return found

    kept = {"metrics.jsonl": state.lines, LOSSES: state.step}  # lines
    metrics, losses = (
        MetricsFile(folder / name, lines) if runtime.main else None for name, lines in kept.items()
    )
    hooks = Hooks(
        on_dev,
        lambda state, best: save_checkpoint(folder, job, tokenizer, state, best),
        metrics,
        tracker,
        Profile(folder, config.trainer.profile if runtime.main else 0),
        _judge(config, runtime),
        losses,
    )
    try:
        with splits["train"].decoding_in_background():
            fit(job, state, hooks)
        _conclude(config, folder, job, state, hooks)
    finally:
        hooks.profile.close()
        for file in filter(None, (metrics, losses)):
            file.close()
        if runtime.main:
            _quarantine(folder, splits)
    runtime.broadcast(None)  # the best checkpoint is on the disk before another rank reads it
    load_weights(folder / "checkpoints" / "best", model.network)
    _tune(config, folder, final, splits["dev"], model, runtime)
    decoder, again = final, ("dev", "test") if isinstance(final, Beam) else ("test",)
    scores = {
        name: scored(splits[name], folder / f"hypotheses.{name}.jsonl", state.step, config.trainer.examples)
        for name in again
    }
    return {
        "protocol": build_protocol(config, data, splits["test"], final),
        "splits": {"dev": state.best["summary"], **{name: found.summary for name, found in scores.items()}},
        **_effort(state, job),
    }


def _score(config: DictConfig, folder: Path, runtime: Runtime, tracker: Tracker) -> dict[str, Any]:
    """Score the checkpoint as it is, by the test split alone -> what result.json says of it. On every
    rank.
    """
    source = FineTuned(config, runtime, config.model.checkpoint)
    data = read_split(config, "test", source, runtime)
    scoring = Scoring(config, folder, source, data, "test", runtime)
    split, audible = scoring.split, config.tracking.audio_examples
    _ = source.network  # read on every rank, also where nothing is left for it to say
    if runtime.main:
        write_quarantine(folder, {"test": split.rejected})
        write_text(folder / "metrics.jsonl", "")
        write_folder(folder / "checkpoints" / "best", source.save)
        announce_scoring(config, folder, data, split, source.tokenizer)
    found = scoring.run(folder / "hypotheses.test.jsonl", max(config.trainer.examples, audible))
    tracker.table("test/hypotheses", table_rows(found.examples, split, audible), 0)
    console.show_examples(found.examples, config.trainer.examples)
    return untrained_result(folder, scoring, found.summary)


def _conclude(config: DictConfig, folder: Path, job: TrainingSetup, state: State, hooks: Hooks) -> None:
    """Score what no step has scored: the checkpoint as it is, where no step was asked for; the mean of the
    last evaluations' weights.
    """
    if not state.best:
        score(job, state, hooks)
        save(state, hooks)
    if config.trainer.average > 1 and not state.averaged:
        job.runtime.broadcast(None)  # rank 0 has kept the last of them
        average_recent(folder / RECENT, job.model.network)
        state.averaged = True
        score(job, state, hooks)
        save(state, hooks)


def _tune(
    config: DictConfig, folder: Path, decoder: Decoder, dev: Split, model: Recogniser, runtime: Runtime
) -> None:
    """Give a beam search the weights that suit the best checkpoint, where that is asked for."""
    if not (isinstance(decoder, Beam) and config.decode.tune):
        return
    checkpoint = runtime.broadcast(checkpoint_hash(folder / "checkpoints" / "best") if runtime.main else None)
    with whole(model):
        emissions = EmissionStore(folder, checkpoint, config.model.padding, config.trainer.device_seconds)
        tune_on_dev(decoder, emissions, lambda: dev, model.eval, runtime)


def _effort(state: State, job: TrainingSetup) -> dict[str, Any]:
    train = {
        "steps": state.step,
        "skipped_steps": state.skipped_steps,
        "epochs": round(state.step / job.plan.steps_per_epoch, 3),
        "audio_seconds": round(state.audio_seconds, 2),
        "wall_seconds": round(state.wall_seconds, 2),
        "audio_seconds_per_second": round(state.audio_seconds / max(1e-9, state.wall_seconds), 2),
    }
    return {"best": {k: state.best[k] for k in ("step", "metric", "value")}, "train": train}


# ------------------------------------------------------------------------------------------------------------
# building and resuming


def _quarantine(folder: Path, splits: dict[str, Split]) -> None:
    """Write down what is left out, with what was found to be of no use only when it was decoded."""
    write_quarantine(
        folder, {name: [*split.rejected, *split.decode_failures()] for name, split in splits.items()}
    )


def _judge(config: DictConfig, runtime: Runtime) -> Callable[[int, float], str | None]:
    """Who is told of each dev score: the study, where the run is a trial of one."""
    s = config.sweep
    if s.trial is None or not runtime.main:
        return lambda step, rate: None
    return Pruner(s.storage, s.name, s.trial, s.prune, s.startup)


# ------------------------------------------------------------------------------------------------------------
# what the user sees


def _summary(folder: Path, result: dict[str, Any]) -> None:
    (folder / DEV_CANDIDATE).unlink(missing_ok=True)
    train, best = result["train"], result["best"]
    console.page(
        "Done",
        [
            ("score", console.headline("test", result["splits"]["test"])),
            *(
                [
                    (
                        "best",
                        f"step {best['step']}: dev {best['metric'].upper()} {console.percent(best['value'])}",
                    ),
                    (
                        "training",
                        (
                            f"{train['steps']:,} steps in {console.clock(train['wall_seconds'])}, "
                            f"{train['audio_seconds_per_second']:.0f} audio-s/s"
                        ),
                    ),
                ]
                if best
                else []
            ),
            ("folder", str(folder)),
            ("", "result.json  hypotheses.test.jsonl  checkpoints/best"),
            ("next", "python -m asr_exp evaluate split=dev \\"),
            ("", f"    {folder}"),
        ],
    )
