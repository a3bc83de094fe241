"""Templates: what is escaped, and what a template may not leave out."""

import html

import jinja2
import pytest

from asr_exp.core.templates import render

TEXT = '</td><script>alert(\'"&")</script>'


def test_an_html_template_escapes_its_values_and_those_of_its_parts(tmp_path):
    (tmp_path / "part.html").write_text("<b>{{ text }}</b>")
    (tmp_path / "page.html").write_text(
        '{% include "part.html" %}<i title="{{ text }}">{{ raw | safe }}</i>\n'
    )
    page = render(tmp_path / "page.html", text=TEXT, raw="<hr>")
    assert page.count("<script>") == 0 and page.endswith("<hr></i>\n")
    assert html.unescape(page) == f'<b>{TEXT}</b><i title="{TEXT}"><hr></i>\n'


def test_other_templates_take_a_text_as_it_is(tmp_path):
    (tmp_path / "card.md.jinja").write_text("# {{ text }}\n")
    assert render(tmp_path / "card.md.jinja", text=TEXT) == f"# {TEXT}\n"


def test_a_value_that_is_missing_is_an_error(tmp_path):
    (tmp_path / "page.html").write_text("{{ there }} {{ missing }}")
    with pytest.raises(jinja2.UndefinedError, match="missing"):
        render(tmp_path / "page.html", there=1)
