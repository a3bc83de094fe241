"""What of a plugin counts in a run's signature."""

import importlib
import sys
import textwrap

import pytest

from asr_exp.config import plugin_sources as sources
from asr_exp.config.compose import compose
from asr_exp.core.registry import REGISTRIES
from asr_exp.runs.folder import signature

SOURCE = '''
from asr_exp.plugins import register_rule
from lab_parts import words

@register_rule("lab")
def lab(argument, language):
    """What it does."""
    return lambda text: text.replace("a", words.WORD)
'''


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """lab(source of the module, of a package that it imports) -> the signature of a run that uses it."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lab_parts").mkdir()
    (tmp_path / "lab_parts/__init__.py").write_text("")
    (rules,) = [one for one in REGISTRIES if one.key == "text.rules"]

    def clear() -> None:
        for name in ("lab_rules", "lab_parts", "lab_parts.words"):
            sys.modules.pop(name, None)
        rules._parts.pop("lab", None)
        rules.origins.pop("lab", None)
        sources._identity.cache_clear()
        importlib.invalidate_caches()

    def made(source: str = SOURCE, words: str = "WORD = 'b'\n", uses=("lower", "lab")) -> str:
        clear()
        (tmp_path / "lab_rules.py").write_text(textwrap.dedent(source))
        (tmp_path / "lab_parts/words.py").write_text(words)
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        importlib.import_module("lab_rules")
        sys.dont_write_bytecode = before
        return signature(compose([f"text.rules=[{','.join(uses)}]", "text.name=lab", "plugins=[lab_rules]"]))

    yield made
    clear()


def test_what_it_does_counts(lab):
    first = lab()
    assert lab() == first
    assert lab(SOURCE.replace('"a"', '"e"')) != first
    assert lab(SOURCE.replace("text.replace", "text.strip().replace")) != first


def test_how_it_is_written_does_not(lab):
    first = lab()
    assert lab(SOURCE.replace("What it does.", "What else.")) == first
    assert lab(SOURCE.replace("    return", "    # why\n\n    return")) == first
    assert lab(SOURCE.replace("(argument, language)", "(\n    argument,\n    language,\n)")) == first


def test_a_version_answers_for_the_source(lab):
    first = lab(SOURCE + "__version__ = '1'\n")
    assert lab(SOURCE.replace('"a"', '"e"') + "__version__ = '1'\n") == first
    assert lab(SOURCE + "__version__ = '2'\n") != first


def test_a_run_that_uses_nothing_of_it_keeps_its_signature(lab):
    first = lab(uses=("lower",))
    assert lab(SOURCE.replace('"a"', '"e"'), uses=("lower",)) == first


def test_built_in_parts_have_no_origin():
    import asr_exp.plugins  # noqa: F401  (it imports every registry)

    settings = {"text": {"rules": ["lower"]}, "decode": {"name": "greedy"}, "optimizer": {"name": "adamw"}}
    assert sources.plugin_sources(settings) == {}
    assert {one.key for one in REGISTRIES} >= {
        "text.rules",
        "decode.name",
        "optimizer.name",
        "dataset.reader",
    }
