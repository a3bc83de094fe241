"""Which columns of a manifest hold what: those that dataset.columns names, or their usual names elsewhere."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from asr_exp.config.data_schema import Columns
from asr_exp.core.errors import UserError, nearest

_log = logging.getLogger(__name__)
# What NeMo, SpeechBrain, Coqui, DeepSpeech, Common Voice and audio folders of the hub call them, in any case.
USUAL = {
    "file": (
        "audio_filepath",
        "audio_file",
        "audio_path",
        "file_path",
        "filepath",
        "file_name",
        "filename",
        "wav",
        "wav_path",
        "wav_filename",
        "path",
        "audio",
    ),
    "text": ("transcript", "transcription", "sentence", "wrd"),
    "speaker": ("speaker_id", "spk_id", "client_id", "speaker_name"),
    "start": ("offset", "start_time", "segment_start"),
    "end": ("end_time", "segment_end", "stop"),
    "duration": (),
}
_MEANING = {"file": "audio's path", "text": "transcript", "id": "utterance's id"}
_SEPARATORS = ";\t|,"


def recognised(columns: Columns, names: Sequence[str], file: Path) -> Columns:
    """The columns of a manifest: as they are named, or, where one is left at its default and not there, under
    a usual name. Raises UserError where there are two of those, so that it is not known which is meant.

    names: all columns that the manifest has.
    """
    default = Columns()
    found: dict[str, str] = {}
    by_name = {name.casefold(): name for name in reversed(names)}
    for setting, others in USUAL.items():
        usual = getattr(default, setting)
        # a manifest that could be read before keeps its splits, which are by speaker where these are known
        young = setting != "speaker" or found
        if getattr(columns, setting) == usual and usual not in names and young:
            there = [by_name[name] for name in (usual, *others) if name in by_name]
            if len(there) > 1:
                raise UserError(
                    f"{file} has columns {' and '.join(map(repr, there))}; say which of them holds the"
                    f" {_MEANING.get(setting, setting)}: dataset.columns.{setting}={there[0]}."
                )
            found |= dict.fromkeys([setting][: len(there)], "".join(there))
    return replace(columns, **found)


def report(columns: Columns, used: Columns, file: Path) -> None:
    """Log the columns that were recognised by other names than those of dataset.columns."""
    before = asdict(columns)
    found = [f"{setting}={name}" for setting, name in asdict(used).items() if name != before[setting]]
    if found:
        _log.info("%s is read with dataset.columns: %s", file.name, ", ".join(found))


def check_columns(columns: Columns, names: Sequence[str], file: Path) -> None:
    """Raise UserError where a manifest lacks a column that it must have. names: all columns that it has."""
    required = {setting: name for setting in _MEANING if (name := getattr(columns, setting)) is not None}
    missing = [setting for setting, name in required.items() if name not in names]
    if not missing or not names:
        return
    lacking = " and no column ".join(repr(required[setting]) for setting in missing)
    if len(names) == 1 and (sign := next((sign for sign in _SEPARATORS if sign in names[0]), None)):
        remedy = {"\t": "dataset=tsv", ",": "dataset=csv"}.get(sign, f"'dataset.delimiter=\"{sign}\"'")
        raise UserError(
            f"{file} has no column {lacking}; its first line is {names[0]!r}, whose columns seem to be"
            f" parted by {sign!r}: {remedy}."
        )
    recognised_texts = "text" in missing and "pred_text" in names
    raise UserError(
        f"{file} has no column {lacking}; its columns:"
        f" {', '.join(names)}.{nearest(required[missing[0]], names)} Name what holds the"
        f" {' and the '.join(_MEANING[s] for s in missing)}:"
        f" {' '.join(f'dataset.columns.{s}=COLUMN' for s in missing)}."
        + " pred_text is what a model has recognised, which nobody has checked."
        * recognised_texts
    )
