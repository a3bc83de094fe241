"""The registry of text rules by name."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from asr_exp.core.registry import Registry

Rule = Callable[[str], str]
Factory = Callable[[Any, str | None], Rule]
# What a rule takes after its colon: nothing (None), a type, or one of a tuple of words.
Argument = None | type | tuple[str, ...]


@dataclass(frozen=True)
class Example:
    """What the help shows of a rule: it is run on this text, with this argument and dataset.language."""

    text: str = ""
    argument: Any = None
    language: str | None = None


@dataclass(frozen=True)
class RegisteredRule:
    """A rule of the registry. argument: what it takes after its colon; example: for the help."""

    factory: Factory
    argument: Argument = None
    example: Example = Example()


RULES: Registry[RegisteredRule] = Registry("text.rules")


def register_rule(
    name: str,
    argument: Argument = None,
    example: Example = Example(),  # noqa: B008
) -> Callable[[Factory], Factory]:
    """Register `factory(argument, language) -> rule` as the text rule `name`.

    argument: what the rule takes after the colon: nothing (None), a type (str, dict), or one of a tuple of
    words. example: what `--help text.rules` runs the rule on; what it does is the factory's docstring.
    """

    def register(factory: Factory) -> Factory:
        RULES.register(name)(RegisteredRule(factory, argument, example))
        return factory

    return register


def primary_subtag(language: str | None) -> str:
    """`tr` of `tr-TR`; a language may also be given by its English name, in any case."""
    return re.split("[-_]", (language or "").lower())[0]
