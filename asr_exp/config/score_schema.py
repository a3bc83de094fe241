"""The section of keys that say by which rules a score is measured."""

from dataclasses import dataclass
from typing import Any

from asr_exp.config.key import key


@dataclass
class Score:
    name: str = key("same", "name of the scoring rules; part of every score's protocol, unless it is same")
    rules: list[Any] = key(
        [],
        "rules applied in order to references and hypotheses alike, after decoding: as text.rules, and"
        " whisper, open_asr_english, open_asr_multilingual",
    )
    references: str = key(
        "text",
        "what the rules begin with: text (a transcript after text.rules) or corpus (as the corpus has it,"
        " with its case and punctuation)",
        choices=("text", "corpus"),
    )
    compounds: str = key(
        "apart",
        "white paper for whitepaper: two errors (apart), none (merge), or none and one word in both texts"
        " (join, as the leaderboard does to languages other than English)",
        choices=("apart", "merge", "join"),
    )
    drop_empty: bool = key(
        False, "leave out utterances of whose reference the rules leave nothing; the coverage tells"
    )
    language: str | None = key(None, "the language of the rules (null: dataset.language)")
