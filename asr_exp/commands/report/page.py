"""The report as one HTML file that needs nothing else: its script, its style and its data are in it, and it
loads nothing from elsewhere.

The charts are SVG that the page's script draws: a chart library would make every page larger by its whole
script.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr_exp.core.templates import render

HERE = Path(__file__).parent / "web"
# In the order in which they run: what several use comes first, the calls that draw the page come last.
SCRIPTS = ("page.js", "charts.js", "utterances.js", "suspects.js", "tracks.js", "detail.js", "start.js")


def html(contents: dict[str, Any], details: Sequence[dict[str, Any]]) -> str:
    """The page. contents: what `contents.py` gathers; details: of the utterances that it says can be heard.

    Texts stand in it as JSON alone. The page's content security policy admits no script but its own, and no
    request.
    """
    script = "".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    page = render(
        HERE / "page.html",
        title=contents["title"],
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        blocks=[
            ("data", _json(contents)),
            *((f"detail-{number}", _json(one)) for number, one in enumerate(details)),
        ],
    )
    return page.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be written


def _json(value: Any) -> str:
    """JSON without `<`, so that nothing in it can end the block that it stands in, or begin a tag."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")
