"""What the tests of the corpus readers share: a `dataset` section from its YAML file, and the recordings in
../shared/data.
"""

from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from asr_exp.config.schema import Dataset
from asr_exp.data.corpora.base import Corpus, read_corpus

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


def make_repository(root, files, columns, count=10, audio=lambda i: f"RIFF{i}".encode()):
    """Parquet files as the hub has them: files is {config: {split: [path, ...]}}; `columns(i)` is a row, but
    for `audio(i)`.
    """
    import datasets

    number = 0
    for splits in files.values():
        for paths in splits.values():
            for path in paths:
                rows = [
                    {"audio": {"bytes": audio(i), "path": f"{i}.wav"}, **columns(i)}
                    for i in range(number, number + count)
                ]
                table = datasets.Dataset.from_list(rows)
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                table.cast_column("audio", datasets.Audio()).to_parquet(root / path)
                number += count
    listed = "".join(
        f"- config_name: {c}\n  data_files:\n"
        + "".join(f"  - split: {s}\n    path: {paths}\n" for s, paths in splits.items())
        for c, splits in files.items()
    )
    (root / "README.md").write_text(f"---\nconfigs:\n{listed}---\n")
    return str(root)


def shared(*parts: str) -> Path:
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"the recordings are not there: {path}")
    return path
