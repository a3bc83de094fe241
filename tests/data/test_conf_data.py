"""Every YAML file of dataset, text and tokenizer composes, has known keys, and names a reader, rules and
inventories that exist.
"""

import importlib
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from asr_exp.config import schema
from asr_exp.config import validation as rules
from asr_exp.data.corpora import base
from asr_exp.data.phones import INVENTORIES
from asr_exp.data.text import build_rules

CONF = Path(__file__).parents[2] / "conf"
DATASETS = sorted(p.stem for p in (CONF / "dataset").glob("*.yaml"))
TEXTS = sorted(p.stem for p in (CONF / "text").glob("*.yaml"))
TOKENIZERS = sorted(p.stem for p in (CONF / "tokenizer").glob("*.yaml"))
PHONES = {
    "timit-phones": ("phones", "timit48", "timit39"),
    "common-voice-phones": ("espeak", "espeak", None),
    "voices": ("phones", "espeak", None),
}


# the name of the rules where it is not that of the file: newer rules have a name of their own
NAMES = {
    "standard": "standard-2",
    "standard-1": "standard",
    "standard-2": "standard-2",
    "upper": "upper-2",
    "upper-1": "upper",
    "upper-2": "upper-2",
}


def composed(*overrides):
    GlobalHydra.instance().clear()
    ConfigStore.instance().store("schema", schema.Config)
    with initialize_config_dir(str(CONF), version_base=None):
        return compose("config", overrides=list(overrides))


def test_there_are_as_many_as_expected():
    assert DATASETS == [
        "common-voice",
        "common-voice-phones",
        "csv",
        "demo",
        "hub",
        "json",
        "jsonl",
        "librispeech-100h",
        "librispeech-960h",
        "minds14",
        "mls",
        "timit",
        "timit-phones",
        "tsv",
        "voices",
    ]
    assert sorted(["espeak", "hf_compat", "none", "phones", *NAMES]) == TEXTS
    assert TOKENIZERS == ["character", "phone", "phone-timit"]


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_composes_and_its_reader_exists(name):
    config = composed(f"dataset={name}", "model=tiny")
    assert rules.config_problems(config) == [] and config.dataset.name == name
    importlib.import_module(f"asr_exp.data.corpora.{base._BUILT_IN[config.dataset.reader]}")
    assert config.dataset.reader in base._READERS
    text, inventory, scored = PHONES.get(name, ("standard-2", None, None))
    assert (config.text.name, config.tokenizer.inventory, config.tokenizer.score_inventory) == (
        text,
        inventory,
        scored,
    )
    assert config.tokenizer.unit == ("phone" if name in PHONES else "character")


def test_what_is_typed_wins_over_what_a_dataset_picks():
    config = composed("dataset=timit-phones", "tokenizer=character", "text=none", "model=tiny")
    assert (config.tokenizer.unit, config.text.name, config.dataset.name) == (
        "character",
        "none",
        "timit-phones",
    )


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_composes_and_its_rules_exist(name):
    config = composed(f"text={name}", "model=tiny")
    assert config.text.name == NAMES.get(name, name)
    if name == "espeak":
        pytest.importorskip("phonemizer", reason="the demo extra is not installed")
    assert isinstance(build_rules(config.text.rules, "en")("Hello"), str)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_composes_and_its_inventories_exist(name):
    config = composed(f"tokenizer={name}", "model=tiny", *(["text=espeak"] if name == "phone" else []))
    assert rules.config_problems(config) == []
    assert {config.tokenizer.inventory, config.tokenizer.score_inventory} <= {None, "espeak", *INVENTORIES}


@pytest.mark.parametrize(
    "path",
    sorted(p for group in ("dataset", "text", "tokenizer") for p in (CONF / group).glob("*.yaml")),
    ids=lambda p: p.stem,
)
def test_a_file_begins_with_what_it_is_and_a_command(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ") and lines[1].startswith("# python -m asr_exp")
    overrides = [word for word in lines[1].split()[4:] if "=" in word]
    assert rules.config_problems(composed(*overrides)) == []
    assert OmegaConf.load(path)
