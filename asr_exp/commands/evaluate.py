"""Score the best checkpoint of a run on any split, or on another dataset (evaluate RUN split=dev dataset=...).

decode=beam decode.lm=train-text scores it by another decoder (--help decode): what the network says of a split is kept in the run
folder, and said once. Of a dataset, only the split that is scored is read (split=test, unless another is asked for). The score of a
split of the run's own, measured by the run's own protocol, joins its result.json; any other is kept apart, under evaluations/ in the
run folder. Several processes may score one run at once: each holds the run's folder while it reads the checkpoint, then the folder its
own score goes to.
"""

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from asr_exp import console
from asr_exp.assembly import at_work, build_data, build_decoder, build_protocol, build_recogniser, build_split, own_data, same_data
from asr_exp.backbone import read_outline
from asr_exp.beam import Beam
from asr_exp.checkpoint import locked, recover
from asr_exp.config import run_folder
from asr_exp.data.prepare import Split
from asr_exp.data.tokenizer import Tokenizer
from asr_exp.emissions import Kept, checkpoint_hash, passes_of
from asr_exp.errors import UserError
from asr_exp.evaluation import evaluate
from asr_exp.machine import versions
from asr_exp.model import Outline, Recogniser
from asr_exp.results import read_result, write_quarantine, write_result
from asr_exp.runtime import Runtime, launch, task_overrides, under_torchrun
from asr_exp.scoring import READ_CER, unspaced
from asr_exp.tuning import tune_on_dev

log = logging.getLogger(__name__)


def run(config: DictConfig) -> Path | int:
    """Evaluate the run that `run=` (or the settings) name -> the folder of the score, or the exit status of the ranks it is left to.

    Raises UserError where it has no checkpoint.
    """
    folder = Path(config.run).expanduser() if config.run else run_folder(config)
    if not (folder / "checkpoints").is_dir():
        asked = f"run={config.run}" if config.run else f"These settings lead to {folder}, which"
        raise UserError(f"{asked} has no checkpoint to evaluate; train it first (the same settings with `train`), or give run=FOLDER.")
    if config.trainer.devices > 1 and not under_torchrun():
        return launch(config.trainer.devices, "evaluate", task_overrides())
    with at_work(config) as runtime:
        return _evaluate(config, folder, runtime)


def _evaluate(config: DictConfig, folder: Path, runtime: Runtime) -> Path:
    best, t = folder / "checkpoints" / "best", config.tokenizer
    config.dataset.only = config.split
    data = build_data(config)
    with _held(folder, folder, runtime):
        if runtime.main:
            recover(best)
        if not runtime.share(best.is_dir()):
            raise UserError(f"{folder} has no checkpoints/best yet; its training has not come to its first evaluation.")
        tokenizer = Tokenizer.from_checkpoint(str(best), None, t.unit, t.inventory, t.score_inventory)
        outline = Outline(*read_outline(best))
        checkpoint = runtime.share(checkpoint_hash(best) if runtime.main else None)
        decoder = build_decoder(config, tokenizer, runtime, folder)
    split = build_split(config, data, config.split, tokenizer, outline, runtime.main)

    @cache
    def network() -> Recogniser:
        """The run's network, for what it has not said before; every rank calls it."""
        with _held(folder, folder, runtime):
            if checkpoint != runtime.share(checkpoint_hash(best) if runtime.main else None):
                raise UserError(f"The training of {folder} has gone on meanwhile, to another best checkpoint; give the command again.")
            model = build_recogniser(config, tokenizer, runtime, checkpoint=best).eval()
            runtime.share(None)  # every rank has read it
        return model

    def dev() -> Split:
        own = own_data(config, folder, "dev")
        if split.name == "dev" and same_data(config, folder) and own.text == config.text:
            return split
        return build_split(own, build_data(own), "dev", tokenizer, outline, runtime.main)

    if isinstance(decoder, Beam) and config.decode.tune:
        tune_on_dev(decoder, folder, checkpoint, dev, config.model.padding, config.trainer.device_seconds, runtime, network)
    passes = passes_of(split, config.trainer.device_seconds, runtime.device)
    kept = Kept(folder, checkpoint, split, config.model.padding, passes)
    model = None if runtime.share(kept.complete) else network()
    protocol = build_protocol(config, data, split, decoder)
    same = _same_protocol((read_result(folder) or {}).get("protocol", {}), protocol) and same_data(config, folder)
    place = folder if same else folder / "evaluations" / protocol["hash"]
    with _held(place, folder, runtime):
        found = evaluate(model, split, tokenizer, decoder, runtime, config.trainer.device_seconds, config.trainer.loss_reduction,
                         place / f"hypotheses.{split.name}.jsonl", config.trainer.examples, runtime.main, kept)
        before = read_result(folder) or {}
        if runtime.main and same:
            write_result(folder, {**before, "splits": {**before.get("splits", {}), split.name: found.summary}})
        elif runtime.main:
            write_result(place, {"status": "finished", "signature": before.get("signature"), "protocol": protocol, "seed": config.seed,
                                 "best": before.get("best"), "splits": {split.name: found.summary}, "versions": versions()})
            write_quarantine(place, {split.name: split.rejected})
    if runtime.main:
        console.page("Done", [("score", console.headline(split.name, found.summary)), ("folder", str(place))])
        if unspaced(split.references(first=1000)):
            log.warning(READ_CER)
        console.show_examples(found.examples, config.trainer.examples)
    return place


def _held(place: Path, folder: Path, runtime: Runtime) -> AbstractContextManager[None]:
    """Hold a folder (rank 0). Of a finished run only other scores are at work there, which are waited for; else it is its training."""
    finished = (read_result(folder) or {}).get("status") == "finished"
    return locked(place, patience=-1 if finished else 0) if runtime.main else nullcontext()


def _same_protocol(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether two scores differ in nothing but the split they were measured on."""
    split_bound = ("split", "ids", "coverage", "hash")
    return {k: v for k, v in ours.items() if k not in split_bound} == {k: v for k, v in theirs.items() if k not in split_bound}
