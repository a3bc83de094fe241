"""Score a run, or any fine-tuned CTC checkpoint, on any split or dataset (evaluate RUN split=dev
dataset=...).

evaluate run=facebook/wav2vec2-base-960h dataset=librispeech-100h dataset.root=FOLDER text=upper scores a
checkpoint that no run of ours made (a folder, an id of the hub, torchaudio:NAME) as it is. The score goes to
the run folder that the same settings with model=hf model.checkpoint=... model.head=keep trainer.max_steps=0
have, which compare, report and table read like any other.

Of a run, its best checkpoint is scored. Characters of the references that the vocabulary lacks are counted
first; where next to nothing of most references is in a checkpoint's own vocabulary, that is an error
(text=upper for a vocabulary in capitals).

decode=beam decode.lm=train-text scores it by another decoder (--help decode): what the network says of a
split is kept in the run folder, and said once. Of a dataset, only the split that is scored is read
(split=test, unless another is asked for). The score of a split of the run's own, measured by the run's own
protocol, joins its result.json; any other is kept apart, under evaluations/ in the run folder. Several
processes may score one run at once: each holds the run's folder while it reads the checkpoint, then the
folder its own score goes to.
"""

import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from asr_exp.builders.data import same_data
from asr_exp.builders.fine_tuned import FineTuned
from asr_exp.builders.plan import announce_scoring
from asr_exp.builders.rescoring import Scoring, read_split, untrained_result
from asr_exp.builders.session import run_session
from asr_exp.builders.transcriber import in_terms_of_run
from asr_exp.core import console
from asr_exp.core.errors import UserError
from asr_exp.core.files import is_run, locked, recover, write_text
from asr_exp.runs.environment import environment, versions
from asr_exp.runs.folder import load_run, resolve, run_folder, signature
from asr_exp.runs.results import read_result, write_quarantine, write_result
from asr_exp.runs.untrained import own_config, trains_nothing
from asr_exp.runtime.distributed import Runtime, under_torchrun
from asr_exp.runtime.launcher import launch, task_overrides
from asr_exp.scoring.error_rates import READ_CER, unspaced

log = logging.getLogger(__name__)


def run(config: DictConfig) -> Path | int:
    """Evaluate what `run=` (or the settings) name -> the folder of the score, or the exit status of the ranks
    it is left to.

    Raises UserError where there is no checkpoint.
    """
    named, untrained = bool(config.run) and is_run(config.run), trains_nothing(config)
    folder = (
        Path(config.run).expanduser() if named else run_folder(own_config(config) if untrained else config)
    )
    trained = (folder / "checkpoints").is_dir() and (named or not untrained)
    if not trained and not untrained:
        asked = f"run={config.run}" if config.run else f"These settings lead to {folder}, which"
        raise UserError(
            f"{asked} has no checkpoint to evaluate; train it first (the same settings with `train`), or give"
            " run=FOLDER."
        )
    if config.trainer.devices > 1 and not under_torchrun():
        return launch(config.trainer.devices, "evaluate", task_overrides())
    with run_session(config) as runtime:
        try:
            return _evaluate(config, folder, trained, runtime)
        except UserError as why:
            if named or not config.run:
                raise
            raise in_terms_of_run(why, config.run) from why


def _evaluate(config: DictConfig, folder: Path, trained: bool, runtime: Runtime) -> Path:
    """Score the run in a folder or (not trained) the checkpoint that the config names as it is -> the folder
    of the score.
    """
    best = folder / "checkpoints" / "best"

    def held(place: Path = folder) -> AbstractContextManager[None]:
        """Hold a folder (rank 0). But for a run that is not finished, only other scores are at work there,
        which are waited for.
        """
        patient = not trained or (read_result(folder) or {}).get("status") == "finished"
        return locked(place, patience=-1 if patient else 0) if runtime.main else nullcontext()

    with held() if trained else nullcontext():
        if runtime.main and trained:
            recover(best)
        if trained and not runtime.broadcast(best.is_dir()):
            raise UserError(
                f"{folder} has no checkpoints/best yet; its training has not come to its first evaluation."
            )
        source = FineTuned(config, runtime, str(best) if trained else config.model.checkpoint, held)
        _ = source.hash  # of what is there while the folder is held
    data = read_split(config, config.split, source, runtime)
    if runtime.main and not is_run(folder):
        with held():
            write_text(
                folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(resolve(own_config(config))))
            )
            write_text(folder / "environment.json", console.pretty_json(environment(runtime)))
    runtime.broadcast(None)
    scoring = Scoring(config, folder, source, data, config.split, runtime)
    place = (
        folder
        if _is_own(config, folder, trained, scoring.protocol)
        else folder / "evaluations" / scoring.protocol["hash"]
    )
    if runtime.main and not trained:
        announce_scoring(config, place, data, scoring.split, source.tokenizer)
    with held(place):
        found = scoring.run(place / f"hypotheses.{config.split}.jsonl", config.trainer.examples)
        if runtime.main:
            _write(config, folder, place, scoring, found.summary, trained)
    if runtime.main:
        console.page(
            "Done", [("score", console.headline(config.split, found.summary)), ("folder", str(place))]
        )
        if unspaced(scoring.split.references(first=1000)):
            log.warning(READ_CER)
        console.show_examples(found.examples, config.trainer.examples)
    return place


def _write(
    config: DictConfig, folder: Path, place: Path, scoring: Scoring, summary: dict[str, Any], trained: bool
) -> None:
    """Put a score where it belongs: to the run's own, or into a folder of its own."""
    before, split = read_result(folder) or {}, scoring.split
    if place == folder and trained:
        write_result(folder, {**before, "splits": {**before.get("splits", {}), split.name: summary}})
        return
    own = {
        "status": "finished",
        "signature": before.get("signature") or signature(load_run(folder)),
        "rehearsal": config.rehearsal,
        "seed": config.seed,
        "versions": versions(),
    }
    if place == folder:
        write_result(folder, {**own, **untrained_result(folder, scoring, summary)})
    else:
        write_result(
            place,
            {
                **own,
                "protocol": scoring.protocol,
                "best": before.get("best"),
                "splits": {split.name: summary},
            },
        )
    write_quarantine(place, {split.name: split.rejected})


def _is_own(config: DictConfig, folder: Path, trained: bool, protocol: dict[str, Any]) -> bool:
    """Whether a score is measured as those of the run in a folder are, or will be: on its data, and differing
    in the split at most.
    """
    own = (read_result(folder) or {}).get("protocol")
    if own is None:
        return not trained and signature(config) == signature(load_run(folder))
    of_the_split = ("split", "ids", "coverage", "hash")
    ours, theirs = (
        {key: value for key, value in one.items() if key not in of_the_split} for one in (own, protocol)
    )
    return ours == theirs and same_data(config, folder)
