"""Text rules: small named functions that are applied in order to every transcript, wherever one is used."""

# the first six register the rules
from asr_exp.data.text import apostrophes, case, characters, english, forms, recipes
from asr_exp.data.text.registry import Example, register_rule
from asr_exp.data.text.rules import TextRules, build_rules, chunks

__all__ = [
    "Example",
    "TextRules",
    "apostrophes",
    "build_rules",
    "case",
    "characters",
    "chunks",
    "english",
    "forms",
    "recipes",
    "register_rule",
]
