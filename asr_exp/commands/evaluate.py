"""Score a run, or any fine-tuned CTC checkpoint, on any split or dataset (evaluate RUN split=dev
dataset=...).

evaluate run=facebook/wav2vec2-base-960h dataset=librispeech-100h dataset.root=FOLDER text=upper scores a
checkpoint that no run of ours made (a folder, an id of the hub, torchaudio:NAME) as it is. The score goes
to the run folder that the same settings with model=hf model.checkpoint=... model.head=keep
trainer.max_steps=0 have, which compare, report and table read like any other.

Of a run, its best checkpoint is scored. Characters of the references that the vocabulary lacks are counted
first; where next to nothing of most references is in a checkpoint's own vocabulary, that is an error
(text=upper for a vocabulary in capitals).

decode=beam decode.lm=train-text scores it by another decoder (--help decode): what the network says of a
split is kept in the run folder, and said once. score=whisper or score.rules=[...] puts references and
hypotheses through other rules before errors are counted (--help score); text rules of a run cannot be
changed, as they would change its references alone. Of a dataset, only the split that is scored is read
(split=test, unless another is asked for). The score of a split of the run's own, measured by the run's own
protocol, joins its result.json; any other is kept apart, under evaluations/ in the run folder. Several
processes may score one run at once: each holds the run's folder while it reads the checkpoint, then the
folder its own score goes to.
"""

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from asr_exp.builders.changed_data import check_references, edited_plugins
from asr_exp.builders.data import same_data
from asr_exp.builders.fine_tuned import FineTuned
from asr_exp.builders.plan import announce_scoring
from asr_exp.builders.rescoring import Scoring, read_split, untrained_result
from asr_exp.builders.session import run_session
from asr_exp.builders.transcriber import in_terms_of_run
from asr_exp.core import console
from asr_exp.core.errors import UserError
from asr_exp.core.files import is_run, locked, recover, write_text
from asr_exp.core.json_document import give_json
from asr_exp.evaluation.speed import in_words
from asr_exp.runs.environment import environment, versions
from asr_exp.runs.folder import load_run, resolve, run_folder, signature
from asr_exp.runs.results import OF_THE_SPLIT, protocol, read_result, write_quarantine, write_result
from asr_exp.runs.untrained import own_config, trains_nothing
from asr_exp.runtime.distributed import Runtime, under_torchrun
from asr_exp.runtime.launcher import launch, task_overrides
from asr_exp.scoring.error_rates import READ_CER, unspaced

log = logging.getLogger(__name__)

CHANGED = "The data has changed since this run was made (%s): this score is kept apart from its own."
EDITED = "Plugins have been edited since this run was made (%s): this score is kept apart from its own."


@dataclass(frozen=True)
class ScoredRun:
    """What is scored. folder: the run folder. trained: whether a run's checkpoint is scored; otherwise
    model.checkpoint of the config is scored as it is.
    """

    config: DictConfig
    folder: Path
    trained: bool

    @property
    def best(self) -> Path:
        """The run's best checkpoint."""
        return self.folder / "checkpoints" / "best"

    def lock(self, runtime: Runtime, folder: Path | None = None) -> AbstractContextManager[None]:
        """Lock a folder (by default the run folder) on rank 0.

        Where only other evaluations can hold the lock, it waits for them. A run that is still training is not
        waited for: that is a UserError.
        """
        if not runtime.main:
            return nullcontext()
        only_evaluations = not self.trained or (read_result(self.folder) or {}).get("status") == "finished"
        return locked(folder or self.folder, patience=-1 if only_evaluations else 0)


def run(config: DictConfig) -> Path | int:
    """Evaluate what `run=` or the settings name -> the folder of the score; with several devices, the exit
    status of their processes.

    Raises UserError where there is no checkpoint.
    """
    is_named = bool(config.run) and is_run(config.run)
    untrained = trains_nothing(config)
    if is_named:
        folder = Path(config.run).expanduser()
    else:
        folder = run_folder(own_config(config) if untrained else config)
    trained = (folder / "checkpoints").is_dir() and (is_named or not untrained)
    if not trained and not untrained:
        subject = f"run={config.run}" if config.run else f"These settings lead to {folder}, which"
        raise UserError(
            f"{subject} has no checkpoint to evaluate; train it first (the same settings with `train`), or"
            " give run=FOLDER."
        )
    if trained:
        _check_text(config, folder)
    if config.trainer.devices > 1 and not under_torchrun():
        return launch(config.trainer.devices, "evaluate", task_overrides())
    with run_session(config, shared=folder if trained else None, trains=False) as runtime:
        try:
            return _evaluate(ScoredRun(config, folder, trained), runtime)
        except UserError as why:
            if is_named or not config.run:
                raise
            raise in_terms_of_run(why, config.run) from why


def _check_text(config: DictConfig, folder: Path) -> None:
    """Raise UserError where the text rules are not those of the run: they would change its references and not
    what it recognises. The transcripts of another dataset may take others to become phones.
    """
    own = load_run(folder)
    if own.text != config.text and (config.tokenizer.unit != "phone" or same_data(config, folder)):
        raise UserError(
            f"text={config.text.name} and text.rules would change the references of {folder} alone: what it"
            f" recognises is spelled by its own rules (text={own.text.name}). To score both by other rules,"
            " give score=NAME, or score.rules=[...] in the place of text.rules: see --help score."
        )


def _evaluate(scored: ScoredRun, runtime: Runtime) -> Path:
    """Score a run or a checkpoint -> the folder of the score."""
    config, folder = scored.config, scored.folder
    source = _load(scored, runtime)
    data = read_split(config, config.split, source, runtime)
    if runtime.main and not is_run(folder):
        with scored.lock(runtime):
            own = OmegaConf.create(resolve(own_config(config)))
            write_text(folder / "config.yaml", OmegaConf.to_yaml(own))
            write_text(folder / "environment.json", console.pretty_json(environment(runtime)))
    runtime.broadcast(None)
    scoring = Scoring(config, folder, source, data, config.split, runtime)
    changed = runtime.broadcast(check_references(config, folder, data.fingerprint))
    if changed and scored.trained:  # without training, the score takes the place of the one before
        log.warning(CHANGED, changed[0])
        scoring.protocol = protocol(**{**scoring.protocol, "data": changed[1]})
    if scored.trained and (edited := edited_plugins(config, folder)):
        log.warning(EDITED, ", ".join(edited))
        scoring.protocol = protocol(**{**scoring.protocol, "plugins": edited})
    is_own = _is_own_protocol(scored, scoring.protocol)
    place = folder if is_own else folder / "evaluations" / scoring.protocol["hash"]
    if runtime.main and not scored.trained:
        announce_scoring(config, place, data, scoring.split, source.tokenizer)
    with scored.lock(runtime, place):
        result = scoring.run(place / f"hypotheses.{config.split}.jsonl", config.trainer.examples)
        if runtime.main:
            assert data.fingerprint
            data.fingerprint.save(place)
            _write(scored, place, scoring, result.summary, data.fingerprint.summary)
    if runtime.main:
        score = console.headline(config.split, result.summary)
        speed = [("speed", in_words(scoring.speed))] if scoring.speed else []
        console.page("Done", [("score", score), *speed, ("folder", str(place))])
        if empty := result.summary.get("empty_references"):
            log.info(
                "%s left out: score=%s leaves nothing of their references.",
                console.counted(empty, "utterance"),
                config.score.name,
            )
        if unspaced(scoring.split.references(first=1000)):
            log.warning(READ_CER)
        console.show_examples(result.examples, config.trainer.examples)
        _give_json(scored, place, scoring.protocol, result.summary, changed)
    return place


def _give_json(
    scored: ScoredRun,
    place: Path,
    protocol: dict[str, Any],
    summary: dict[str, Any],
    changed: tuple[str, str] | None,
) -> None:
    """Hand over the answer of --json.

    Args:
        scored: the run.
        place: the folder of the score.
        protocol: of the score.
        summary: the score.
        changed: what of the data has changed since the run was made, first in words.
    """
    config = scored.config
    document = {"run": scored.folder, "folder": place, "own": place == scored.folder, "seed": config.seed}
    document |= {"split": config.split, "protocol": protocol, "score": summary}
    give_json("evaluate", {**document, "changed_data": changed[0] if changed else None})


def _load(scored: ScoredRun, runtime: Runtime) -> FineTuned:
    """Load the checkpoint, with the run folder locked so that no training replaces it meanwhile.

    Raises UserError where a run has no checkpoint yet.
    """
    with scored.lock(runtime) if scored.trained else nullcontext():
        if runtime.main and scored.trained:
            recover(scored.best)
        if scored.trained and not runtime.broadcast(scored.best.is_dir()):
            raise UserError(
                f"{scored.folder} has no checkpoints/best yet; its training has not come to its first"
                " evaluation."
            )
        checkpoint = str(scored.best) if scored.trained else scored.config.model.checkpoint
        source = FineTuned(scored.config, runtime, checkpoint, lambda: scored.lock(runtime))
        _ = source.hash  # computed now, while the folder is locked
    return source


def _write(
    scored: ScoredRun, place: Path, scoring: Scoring, summary: dict[str, Any], data: dict[str, Any]
) -> None:
    """Add a score to the run's result.json, or write one in a folder of its own.

    Args:
        scored: the run.
        place: the folder of the score.
        scoring: how it was scored.
        summary: the score.
        data: the fingerprint of what it was scored on, by split.
    """
    config, folder = scored.config, scored.folder
    split = scoring.split
    previous = read_result(folder) or {}
    if place == folder and scored.trained:
        splits = {**previous.get("splits", {}), split.name: summary}
        before = previous.get("data", {})
        known = {**before, **{name: of_split for name, of_split in data.items() if name not in before}}
        own = {**previous, "splits": splits, "data": known, **scoring.speeds(previous)}
        write_result(folder, own)
        return
    result = {
        "status": "finished",
        "signature": previous.get("signature") or signature(load_run(folder)),
        "rehearsal": config.rehearsal,
        "seed": config.seed,
        "versions": versions(),
    }
    if place == folder:
        result |= untrained_result(folder, scoring, summary)
    else:
        result |= {
            "protocol": scoring.protocol,
            "best": previous.get("best"),
            "splits": {split.name: summary},
            "dataset": resolve(config)["dataset"],
        }
    result["data"] = {**(previous.get("data", {}) if place == folder else {}), **data}
    write_result(place, {**result, **scoring.speeds(read_result(place) or {})})
    write_quarantine(place, {split.name: split.rejected})


def _is_own_protocol(scored: ScoredRun, protocol: dict[str, Any]) -> bool:
    """Whether a score is measured like the run's own scores: on its dataset, with a protocol that differs in
    nothing but the split.
    """
    config, folder = scored.config, scored.folder
    own = (read_result(folder) or {}).get("protocol")
    if own is None:
        return not scored.trained and signature(config) == signature(load_run(folder))
    own_keys, keys = (
        {key: value for key, value in one.items() if key not in OF_THE_SPLIT} for one in (own, protocol)
    )
    return own_keys == keys and same_data(config, folder)
