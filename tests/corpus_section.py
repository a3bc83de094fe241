"""What the tests of the corpus readers share: a `dataset` section from its YAML file, and the recordings in ../shared/data."""

from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from asr_exp.data.corpora.base import Corpus, read_corpus
from asr_exp.schema import Dataset

CONF = Path(__file__).parents[1] / "conf" / "dataset"
SHARED = Path(__file__).parents[2] / "shared" / "data"


def section(name: str, **settings) -> DictConfig:
    """conf/dataset/NAME.yaml under its schema, with settings by key (`hub__id` for hub.id)."""
    config = OmegaConf.load(CONF / f"{name}.yaml")
    config.pop("defaults", None)
    merged = OmegaConf.merge(OmegaConf.structured(Dataset), config)
    for key, value in settings.items():
        OmegaConf.update(merged, key.replace("__", "."), value)
    return merged


def read(name: str, cache: Path, **settings) -> Corpus:
    corpus = read_corpus(section(name, **settings), cache)
    for split, rows in corpus.splits.items():
        ids = [row.id for row in rows]
        assert len(set(ids)) == len(ids), f"ids repeat in {split}"
    assert set(corpus.splits) == set(corpus.subsets) == {"train", "dev", "test"}
    return corpus


def shared(*parts: str) -> Path:
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"the recordings are not there: {path}")
    return path
