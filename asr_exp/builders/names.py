"""Check the names and the files of a config against what there is, before anything is read or loaded."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from asr_exp.core.errors import UserError
from asr_exp.data.corpora.base import as_list, check_reader
from asr_exp.data.phones import INVENTORIES
from asr_exp.data.text import build_rules
from asr_exp.decoding.decoders import DECODERS
from asr_exp.runs.folder import run_folder
from asr_exp.runs.results import read_result
from asr_exp.training.optim import OPTIMIZERS, SCHEDULES
from asr_exp.training.trackers import TRACKERS

# What decode.lm and decode.lexicon say besides the name of a file.
NO_FILE = {"lm": ("none", "train-text", "checkpoint"), "lexicon": ("auto",)}
# Commands that read the transcripts of a corpus, and those that decode.
OF_CORPORA = ("train", "evaluate", "check")
OF_DECODERS = (*OF_CORPORA, "transcribe", "serve", "report")


def check_names(config: DictConfig, command: str) -> None:
    """Raise UserError, with a line for each, for names that nothing is registered by and for files that are
    not there, as far as the command needs them. Plugins are imported before. A run that is finished is shown
    without them.
    """
    if command == "train" and (read_result(run_folder(config)) or {}).get("status") == "finished":
        return
    problems: list[str] = []

    def attempt(check: Any, *arguments: Any) -> None:
        try:
            check(*arguments)
        except UserError as error:
            problems.append(str(error))

    if command in OF_CORPORA:
        attempt(check_reader, config.dataset.reader)
        attempt(build_rules, OmegaConf.to_container(config.text.rules), config.dataset.language)
        inventory = config.tokenizer.score_inventory
        if inventory is not None and inventory not in INVENTORIES:
            problems.append(
                f"tokenizer.score_inventory={inventory} is not known. Known: {', '.join(INVENTORIES)}."
            )
        attempt(_check_file, "tokenizer.vocabulary", config.tokenizer.vocabulary)
        if config.dataset.reader == "manifest":
            for split in ("train", "dev", "test") if command == "train" else (config.split,):
                for path in as_list(config.dataset[split]):
                    attempt(_check_file, f"dataset.{split}", path)
    if command in OF_DECODERS:
        if config.decode.name == "beam":
            for key, words in NO_FILE.items():
                value = config.decode[key]
                if value not in (None, *words):
                    attempt(_check_file, f"decode.{key}", value)
        else:
            attempt(DECODERS.check, config.decode.name, ("beam",))
    if command == "train":
        attempt(OPTIMIZERS.check, config.optimizer.name)
        attempt(SCHEDULES.check, config.schedule.name)
        attempt(TRACKERS.check, config.tracking.name)
    if problems:
        raise UserError("\n".join(problems))


def _check_file(key: str, value: str | None) -> None:
    """Raise UserError where a key names a file that is not there, or something that is no file."""
    if value is None:
        return
    path = Path(value).expanduser()
    if not path.exists():
        raise UserError(f"{key}={value}: there is no such file (looked for {path.absolute()}).")
    if path.is_dir():
        raise UserError(f"{key}={value} is a folder; name a file in it.")
