"""Corpus readers: a corpus in its official layout in, `Utterance` rows out; no audio is decoded here."""

from asr_exp.data.corpora.base import (
    FileAudio,
    TableAudio,
    Utterance,
    Utterances,
    read_corpus,
    register_reader,
)

__all__ = ["FileAudio", "TableAudio", "Utterance", "Utterances", "read_corpus", "register_reader"]
