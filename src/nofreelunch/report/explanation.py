"""The page of `nofreelunch explain`: one file, no script, no network; its slider is a row of radio buttons."""

import base64
from collections.abc import Mapping
from typing import Any

from nofreelunch.report.template import render


def explanation_page(page: Mapping[str, Any]) -> bytes:
    """The page as HTML, from what `experiments.explanation.contents` gives."""
    return render("explanation.html", {"uri": _uri}, page=page)


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
