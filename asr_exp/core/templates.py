"""Jinja templates that stand beside the code that fills them."""

from pathlib import Path
from typing import Any


def render(template: Path, **values: Any) -> str:
    """The text of a template with these values in it.

    In a template whose name ends in .html every value is escaped, but for Markup and what the template marks
    as `safe`. A value that the template uses and that is not given is an error.
    """
    import jinja2  # here, because most commands write no page

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template.name).render(values)
