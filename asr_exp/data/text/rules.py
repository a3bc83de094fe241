"""Text rules in order, as one function, and how they are built from a config."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from asr_exp.core.errors import UserError, nearest
from asr_exp.data.text.registry import RULES, Rule


class TextRules:
    """Rules in order, as one function."""

    def __init__(self, rules: Iterable[Rule]):
        self._rules = list(rules)

    def __call__(self, text: str) -> str:
        for rule in self._rules:
            text = rule(text)
        return text

    def apply_many(self, texts: Iterable[str]) -> Iterator[str]:
        """Apply the rules to each text. A rule with a method `many(texts)`, such as espeak, gets lists of
        texts, which is faster.
        """
        for chunk in chunks(texts):
            for rule in self._rules:
                many = getattr(rule, "many", None)
                chunk = many(chunk) if many else [rule(text) for text in chunk]
            yield from chunk


def chunks(texts: Iterable[str], size: int = 10_000) -> Iterator[list[str]]:
    """Yield lists of `size` texts: enough to work on at once, and little memory."""
    remaining = iter(texts)
    while chunk := list(islice(remaining, size)):
        yield chunk


def build_rules(rules: Iterable[Any], language: str | None) -> TextRules:
    """Build the rules of a `text` section: names (`lower`) and one-key mappings (`remove: ",?."`).

    language: of the dataset. Raises UserError for an unknown rule and for an argument that does not fit.
    """
    return TextRules(_build(rule, language) for rule in rules)


def _build(rule: Any, language: str | None) -> Rule:
    if isinstance(rule, Mapping):
        if len(rule) != 1:
            raise UserError(
                f"text.rules: {dict(rule)} is not one rule; write each rule on a line of its own, `- name:"
                " argument`."
            )
        ((name, argument),) = rule.items()
    else:
        name, argument = rule, None
    registered = RULES.find(name)
    accepted = registered.argument
    if isinstance(argument, Mapping):
        argument = dict(argument)
    if accepted is None and argument is not None:
        raise UserError(
            f"text.rules: {name} takes no argument, and was given {argument!r}; write `- {name}`."
        )
    if isinstance(accepted, tuple) and argument not in accepted:
        raise UserError(
            f"text.rules: {name}: {argument!r} is not one of"
            f" {', '.join(accepted)}.{nearest(argument, accepted)}"
        )
    if isinstance(accepted, type) and not isinstance(argument, accepted):
        example = '{"from": "to"}' if accepted is dict else '",?."'
        raise UserError(
            f"text.rules: {name} was given {argument!r}; it takes a {accepted.__name__}, such as `- {name}:"
            f" {example}`."
        )
    return registered.factory(argument, language)
