"""The list of text rules of `--help text.rules`, each with what it does and an example, which is run."""

import inspect
from typing import Any

from asr_exp.cli.layout import wrap
from asr_exp.core.errors import UserError
from asr_exp.data.text import build_rules
from asr_exp.data.text.registry import RULES, Example, RegisteredRule

SAMPLE = "Don’t STOP, İzmir"  # for a rule without an example of its own


def rules_page() -> str:
    """Every rule that is registered: how it is written, what it does, and what becomes of a text."""
    head = wrap(
        "A list is given as 'text.rules=[nfc,lowercase,{remove: \"?!\"}]', and text.name=MINE says what to"
        " call it. The rules, in alphabetical order:"
    )
    return "\n".join([head, *(f"\n{_entry(name, RULES.find(name))}" for name in RULES.names())]) + "\n"


def _entry(name: str, rule: RegisteredRule) -> str:
    does = " ".join((inspect.getdoc(rule.factory) or "").split())
    lines = [f"  {_written(name, rule)}", wrap(does, "      ", "      ") if does else ""]
    return "\n".join(filter(None, [*lines, _example(name, rule)]))


def _written(name: str, rule: RegisteredRule) -> str:
    """How a rule is written in a list, with what it takes."""
    if rule.argument is None:
        return name
    if isinstance(rule.argument, tuple):
        return f"{{{name}: {'|'.join(rule.argument)}}}"
    return f"{{{name}: {_argument(rule.example.argument or rule.argument.__name__)}}}"


def _argument(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{old!r}: {new!r}" for old, new in value.items()) + "}"
    return repr(value) if not isinstance(value, str) or not value.isalnum() else value


def _example(name: str, rule: RegisteredRule) -> str:
    """A text and what the rule makes of it."""
    one = rule.example if rule.example.text else Example(SAMPLE, rule.example.argument)
    if rule.argument is not None and one.argument is None:
        if not isinstance(rule.argument, tuple):
            return ""
        one = Example(one.text, rule.argument[0])
    asked = {name: one.argument} if rule.argument is not None else name
    how = [f"{name}: {_argument(one.argument)}"] * isinstance(rule.argument, tuple)
    how += [f"dataset.language={one.language}"] * bool(one.language)
    try:
        result = _quoted(build_rules([asked], one.language)(one.text))
    except UserError as why:
        result = str(why)
    except Exception as error:  # of a plugin
        result = f"{type(error).__name__}: {error}"
    text = f"{_quoted(one.text)} -> {result}" + (f"  ({', '.join(how)})" if how else "")
    return wrap(text, "        ", "      ")


def _quoted(text: str) -> str:
    """A text in quotation marks, with escapes for what nobody sees, and for accents by themselves."""
    plain = (c if c.isprintable() and not "\u0300" <= c <= "\u036f" else "" for c in text)
    shown = (p or c.encode("unicode_escape").decode() for p, c in zip(plain, text, strict=True))
    return f'"{"".join(shown)}"'
