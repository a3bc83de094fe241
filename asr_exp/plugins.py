"""What a plugin imports: the functions that register its own parts by name, and what a corpus reader returns.
These names stay where they are.
"""

from asr_exp.data.corpora.base import Corpus, FileAudio, TableAudio, Utterance, register_reader
from asr_exp.data.text import register_rule
from asr_exp.decoding.decoders import register_decoder
from asr_exp.training.optim import register_optimizer, register_schedule
from asr_exp.training.trackers import register_tracker

__all__ = [
    "Corpus",
    "FileAudio",
    "TableAudio",
    "Utterance",
    "register_decoder",
    "register_optimizer",
    "register_reader",
    "register_rule",
    "register_schedule",
    "register_tracker",
]
