"""The sections of keys that say what is read: the corpus, its transcripts, and the labels made of them."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from asr_exp.config.key import key


@dataclass
class Columns:
    """The names of a table's columns. A manifest without one that is left at its default may have it under
    another usual name: see `asr_exp.data.corpora.columns`.
    """

    file: str = key("file", "column of the audio's path; relative paths are resolved against the manifest")
    text: str = key("text", "column of the transcript")
    id: str | None = key(
        None, "column of the utterance id (null: the path, with a row number where it repeats)"
    )
    speaker: str | None = key("speaker", "column of the speaker (ignored where the manifest has none)")
    start: str | None = key("start", "column of the segment's start in seconds (ignored where absent)")
    end: str | None = key("end", "column of the segment's end in seconds (ignored where absent)")
    duration: str | None = key(
        "duration",
        "column of the segment's length in seconds, from its start on, or of the whole recording's (ignored"
        " where absent, and where the row has an end)",
    )
    split: str | None = key(
        "split", "column that says train, dev or test, for one manifest that holds all three"
    )
    audio: str = key("audio", "hub only: the column that holds the audio")


@dataclass
class Hub:
    id: str | None = key(None, "dataset id on the hub, or a local folder of the same layout")
    config: str | None = key(None, "configuration (subset) name on the hub")
    revision: str | None = key(None, "git revision on the hub")


@dataclass
class Dataset:
    name: str = key(MISSING, "name of the folder of results", folder="my-data")
    reader: str = key(
        MISSING,
        "timit, timit-phones, librispeech, common-voice, mls, minds14, manifest, hub, demo, voices, or a"
        " plugin's",
    )
    source: str = key(
        "auto",
        "auto (the local root where it is given, else the hub), local, hub",
        choices=("auto", "local", "hub"),
    )
    root: str | None = key(None, "folder of the corpus in its official layout")
    language: str | None = key(
        None, "the corpus's own code of the language (Common Voice tr, MLS german, MInDS-14 en-US)"
    )
    train: Any = key(None, "training subset names, or manifest paths")
    dev: Any = key(None, "subset names or manifests that choose the best checkpoint")
    test: Any = key(None, "subset names or manifests of the final score")
    only: str | None = key(None, "the one split to read; set by evaluate", choices=("train", "dev", "test"))
    hub: Hub = field(default_factory=Hub)
    columns: Columns = field(default_factory=Columns)
    delimiter: str | None = key(None, "manifest column delimiter (null: by the file's ending)")
    split_seed: int = key(0, "seed of the random split where a corpus or manifest has none")
    dev_fraction: float = key(
        0.1, "share of the utterances for dev where there is no split", minimum=0, maximum=0.9
    )
    test_fraction: float = key(
        0.1, "share of the utterances for test where there is no split", minimum=0, maximum=0.9
    )
    corrections: str | None = key(
        None, "table with columns id and transcript whose transcripts replace the corpus's (suspects.csv)"
    )
    sa_sentences: bool = key(False, "TIMIT: keep the two SA sentences that every speaker reads")
    min_seconds: float = key(0.1, "shorter training clips are left out", minimum=0)
    max_seconds: float = key(30.0, "longer training clips are left out", above=0)
    max_eval_seconds: float = key(
        120.0, "longer dev and test clips are left out (and lower the coverage)", above=0
    )
    max_utterances: int | None = key(
        None, "keep the first N utterances of each split (to try things out)", minimum=1
    )


@dataclass
class Text:
    name: str = key(MISSING, "name of the rules; part of every score's protocol")
    rules: list[Any] = key(
        [], "rules applied in order to every transcript, for training, scoring and serving"
    )


@dataclass
class Tokenizer:
    unit: str = key("character", "what the model emits: character or phone", choices=("character", "phone"))
    inventory: str | None = key(
        None, "phone inventory of the targets (timit61, timit48, timit39, espeak); null: from the text"
    )
    score_inventory: str | None = key(
        None, "phone inventory references and hypotheses are folded to before scoring"
    )
    vocabulary: str | None = key(
        None, "path of a vocab.json to use instead of the training split's characters"
    )
    splits: list[str] = key(
        ["train"], "splits whose transcripts the vocabulary is made of (train, dev, test)"
    )
    min_count: int = key(1, "characters seen less often in the training split are unknown", minimum=1)
