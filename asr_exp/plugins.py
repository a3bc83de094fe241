"""What a plugin imports: the functions that register its own parts by name, and what a corpus reader returns.
These names stay where they are.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from asr_exp.core.errors import UserError
from asr_exp.data import text
from asr_exp.data.corpora.base import Corpus, FileAudio, TableAudio, Utterance, register_reader
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


def register_rule(name: str, *arguments: Any, **settings: Any) -> Callable:
    """Register `factory(argument, language) -> rule` as the text rule `name`; see asr_exp.data.text.

    A rule is a function of a text that gives a text; one that gives something else is a UserError.
    """

    def register(factory: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(factory)
        def checked(argument: Any, language: str | None) -> Any:
            try:
                inspect.signature(factory).bind(argument, language)
            except TypeError as error:
                raise UserError(
                    f"text.rules: {name} of a plugin has to take two arguments, (argument, language):"
                    f" {error}."
                ) from error
            rule = factory(argument, language)
            if not callable(rule):
                raise UserError(
                    f"text.rules: {name} of a plugin gave {rule!r}; it has to give a function of a text."
                )
            return _CheckedRule(name, rule)

        text.register_rule(name, *arguments, **settings)(checked)
        return factory

    return register


class _CheckedRule:
    """A plugin's rule, of which each text is looked at."""

    def __init__(self, name: str, rule: Callable[[str], Any]):
        self._name, self._rule = name, rule
        if many := getattr(rule, "many", None):
            self.many = lambda texts: [self._checked(one) for one in many(texts)]

    def __call__(self, text: str) -> str:
        return self._checked(self._rule(text))

    def _checked(self, given: Any) -> str:
        if not isinstance(given, str):
            raise UserError(
                f"text.rules: {self._name} of a plugin made {given!r} of a text; it has to give a text."
            )
        return given
