"""How a run scores its splits: dev while it trains, dev and test once it has trained."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from asr_exp.builders.score_rules import build_score_rules
from asr_exp.commands.train.record import write_rejected
from asr_exp.core import console
from asr_exp.data.prepare import Split
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.decoding.beam import Beam
from asr_exp.decoding.decoders import Decoder, Greedy
from asr_exp.evaluation.decoder_tuning import tune_on_dev
from asr_exp.evaluation.emission_cache import EmissionStore, checkpoint_hash
from asr_exp.evaluation.evaluate import Evaluation, EvaluationSettings, evaluate, table_rows
from asr_exp.runs.results import DEV_CANDIDATE, LOSSES
from asr_exp.runtime.fsdp import whole
from asr_exp.sweeps.study import Pruner
from asr_exp.training.checkpoint import COPY, RECENT, average_recent, keep_weights, save_checkpoint
from asr_exp.training.loop import score
from asr_exp.training.metrics_file import MetricsFile
from asr_exp.training.profiler import Profile
from asr_exp.training.setup import TrainingSetup
from asr_exp.training.state import Hooks, State, save
from asr_exp.training.trackers import Tracker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scorer:
    """Scores splits with the weights that the network has at that moment, and shows some hypotheses.

    decoder: that of the config, for the final scores. tracker: gets a table of hypotheses of each score.
    """

    config: DictConfig
    folder: Path
    tokenizer: Tokenizer
    setup: TrainingSetup
    decoder: Decoder
    tracker: Tracker

    def score(self, split: Split, decoder: Decoder, path: Path, step: int) -> Evaluation:
        """Score a split by `decoder` and write its hypotheses to `path`; step: that of the weights."""
        trainer, tracking = self.config.trainer, self.config.tracking
        model, runtime = self.setup.model, self.setup.runtime
        settings = EvaluationSettings(
            trainer.device_seconds,
            trainer.loss_reduction,
            path,
            max(trainer.examples, tracking.audio_examples),
            self.config.evaluate.precision,
            build_score_rules(self.config),
        )
        with whole(model):
            evaluation = evaluate(model, split, decoder, runtime, settings)
        audible = tracking.audio_examples if split.name == "test" else 0  # once: sound is large
        rows = table_rows(evaluation.examples, split, audible)
        self.tracker.table(f"{split.name}/hypotheses", rows, step)
        return evaluation

    def score_dev(self, dev: Split, state: State, step: int) -> Evaluation:
        """Score dev while training goes on, by greedy search where the decoder is a beam search: dev is
        scored often.
        """
        decoder = Greedy(self.tokenizer) if isinstance(self.decoder, Beam) else self.decoder
        evaluation = self.score(dev, decoder, self.folder / DEV_CANDIDATE, step)
        if self.config.trainer.average > 1 and not state.averaged:
            keep_weights(self.folder, self.setup, step, self.config.trainer.average)
        rates, loss = console.rates(evaluation.summary), console.number(evaluation.loss)
        log.info("step %d/%d  dev %s  loss %s", step, self.setup.total, rates, loss)
        console.show_examples(evaluation.examples, self.config.trainer.examples)
        return evaluation

    def tune(self, dev: Split) -> None:
        """With decode.tune, give a beam search the weights that score best on dev with this checkpoint."""
        if not (isinstance(self.decoder, Beam) and self.config.decode.tune):
            return
        model, runtime = self.setup.model, self.setup.runtime
        best = self.folder / "checkpoints" / "best"
        checkpoint = runtime.broadcast(checkpoint_hash(best) if runtime.main else None)
        with whole(model):
            emissions = EmissionStore(
                self.folder,
                checkpoint,
                self.config.model.padding,
                self.config.trainer.device_seconds,
                self.config.evaluate.precision,
            )
            tune_on_dev(self.decoder, emissions, lambda: dev, model.eval, runtime)

    def score_best(self, splits: Mapping[str, Split], state: State) -> dict[str, dict[str, Any]]:
        """Score test with the best checkpoint, and dev again where training scored it by another decoder.

        Returns the summaries by the name of the split, as in result.json.
        """
        names = ("dev", "test") if isinstance(self.decoder, Beam) else ("test",)
        return {
            name: self.score(
                splits[name], self.decoder, self.folder / f"hypotheses.{name}.jsonl", state.step
            ).summary
            for name in names
        }


@contextmanager
def open_hooks(scorer: Scorer, splits: Mapping[str, Split], state: State) -> Iterator[Hooks]:
    """What the training loop of a run calls, with its files open until the end: each cut back to the lines
    that the checkpoint counts, as later steps are made again.
    """
    config = scorer.config
    folder = scorer.folder
    setup = scorer.setup
    main = setup.runtime.main
    last = folder / "checkpoints" / "last"
    lines = {"metrics.jsonl": state.lines, LOSSES: state.step}
    metrics, losses = (
        MetricsFile(folder / name, count, last / f"{name}{COPY}") if main else None
        for name, count in lines.items()
    )
    profile = Profile(folder, config.trainer.profile if main else 0)
    try:
        yield Hooks(
            evaluate=lambda step: scorer.score_dev(splits["dev"], state, step),
            save=lambda state, best: save_checkpoint(folder, setup, scorer.tokenizer, state, best),
            metrics=metrics,
            tracker=scorer.tracker,
            profile=profile,
            pruner=_pruner(config, main, setup.metric),
            losses=losses,
        )
    finally:
        profile.close()
        for file in filter(None, (metrics, losses)):
            file.close()
        if main:
            write_rejected(folder, splits)


def _pruner(config: DictConfig, main: bool, metric: str) -> Callable[[int, float], str | None]:
    """What decides after each dev score whether the run ends: the study, where the run is a trial of one."""
    sweep = config.sweep
    if sweep.trial is None or not main:
        return lambda step, rate: None
    return Pruner(sweep.storage, sweep.name, sweep.trial, sweep.prune, sweep.startup, metric)


def conclude(scorer: Scorer, state: State, hooks: Hooks) -> None:
    """Score on dev what no step of the loop has scored: the weights as they were loaded, where no step was
    asked for, and with trainer.average the mean of the weights of the last evaluations.
    """
    setup = scorer.setup
    if not state.best:
        score(setup, state, hooks)
        save(state, hooks)
    if scorer.config.trainer.average > 1 and not state.averaged:
        setup.runtime.broadcast(None)  # rank 0 has written the last of them
        average_recent(scorer.folder / RECENT, setup.model.network)
        state.averaged = True
        score(setup, state, hooks)
        save(state, hooks)
