"""A table's runs as its command line asks for them, out of their composed configs. Nothing is known yet of
what has become of them. Imports no torch.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from asr_exp.commands.table.rows import TableCell
from asr_exp.commands.table.scores import TOLERANCE, PublishedScore
from asr_exp.config.rules_name import text_name
from asr_exp.config.schema import NOT_IN_SIGNATURE, Config
from asr_exp.runs.folder import resolve, signature, with_size


def requested_cell(
    keys: Mapping[str, str], overrides: Sequence[tuple[str, str]], config: DictConfig
) -> TableCell:
    """The cell of a run from its composed config. keys: what distinguishes it; overrides: its command."""
    dataset = config.dataset
    splits = [dataset.test] if isinstance(dataset.test, str) else dataset.test or ["test"]
    split = "+".join(Path(str(one)).name for one in splits)
    corpus = " ".join(filter(None, [dataset.name, dataset.language, split]))
    material = (
        f"{corpus}, {metric_of(config).upper()}, text {text_name(config)}, {config.decode.name}, padding"
        f" {config.model.padding}"
    )
    return TableCell(
        title=f"{dataset.name}/{config.model.name}",
        keys=keys,
        overrides=tuple(overrides),
        material=material,
        signature=signature(config),
        recipe=recipe(config),
        published=_published(config.published),
        local=not dataset.hub.id and dataset.reader not in ("demo", "manifest"),
    )


def _published(section: DictConfig) -> PublishedScore:
    return PublishedScore(
        value=section.value,
        metric=section.metric,
        split=section.split,
        source=section.source,
        hardware=section.hardware,
        time=section.time,
        tolerance=TOLERANCE if section.tolerance is None else section.tolerance,
        inferred=tuple(section.inferred),
        protocol=dict(section.protocol),
    )


def impossible_cell(keys: Mapping[str, str], overrides: Sequence[tuple[str, str]], reason: str) -> TableCell:
    """A cell whose settings do not make a run."""
    return TableCell(
        title="?",
        keys=keys,
        overrides=tuple(overrides),
        material="settings that cannot be",
        signature="",
        recipe="",
        status="failed",
        reason=one_line(reason),
    )


def metric_of(config: DictConfig) -> str:
    """The rate that a run is judged by: that of the published score, else WER, or PER for phones."""
    return config.published.metric or ("per" if config.tokenizer.unit == "phone" else "wer")


def recipe(config: DictConfig) -> str:
    """A hash, ten hex digits, of the settings that differ from the schema's defaults, without folders and
    without what is no part of a signature.

    It is the same wherever the corpus lies, and whatever keys a later version adds.
    """
    settings = with_size(resolve(config))
    for name in NOT_IN_SIGNATURE:
        section, _, leaf = name.rpartition(".")
        (settings[section] if section else settings).pop(leaf)
    dataset = settings["dataset"]
    del dataset["root"], dataset["source"]
    if dataset["reader"] == "manifest":
        for split in ("train", "dev", "test"):
            dataset[split] = [Path(path).name for path in dataset[split] or []]
    for section, name in (
        (settings["model"], "checkpoint"),
        (dataset["hub"], "id"),
        (settings["tokenizer"], "vocabulary"),
    ):
        if section[name] and Path(section[name]).is_absolute():
            section[name] = Path(section[name]).name
    defaults: dict[str, Any] = OmegaConf.to_container(OmegaConf.structured(Config))  # type: ignore[assignment]
    changed = _changed(settings, with_size(defaults))
    return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:10]


def _changed(settings: dict[str, Any], defaults: Any) -> dict[str, Any]:
    """The settings that are not the defaults', section by section; sections without one are left out."""
    known = defaults if isinstance(defaults, dict) else {}
    values = {
        name: _changed(value, known.get(name)) if isinstance(value, dict) else value
        for name, value in settings.items()
    }
    return {
        name: value
        for name, value in values.items()
        if value != ({} if isinstance(value, dict) else known.get(name))
    }


def one_line(text: str, width: int = 160) -> str:
    """A reason on one line of at most so many characters, with paths from the current folder."""
    line = " ".join(text.replace(f"{Path.cwd()}{os.sep}", "").split())
    return line if len(line) <= width else line[: width - 3] + "..."
