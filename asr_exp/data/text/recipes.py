"""Rules that are a whole recipe."""

import re

from asr_exp.data.text.registry import Example, Rule, register_rule


@register_rule("hf_compat", example=Example("DON'T stop - 42!"))
def _hf_compat(argument: None, language: str | None) -> Rule:
    """Do what the training script of the published rows did. Its character class has the range `!-;`, so that
    apostrophes and digits are removed too.

    The trailing space is part of the training target, as it was in that script. References and hypotheses are
    stripped before they are scored.
    """
    ignored = re.compile('[,?.!-;:"“%‘”�]')
    return lambda text: ignored.sub("", text).lower() + " "


@register_rule("espeak", example=Example("Straße", language="de"))
def _espeak(argument: None, language: str | None) -> Rule:
    """Turn text into IPA phones separated by single spaces, without stress or word boundaries."""
    from asr_exp.data.espeak import Phonemiser

    return Phonemiser(language)
