"""Fills a page's template: escaped, strict about what is missing, one layout for all."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined

Filter: TypeAlias = Callable[..., Any]


def render(template: str, filters: Mapping[str, Filter], **values: object) -> bytes:
    """The page as HTML, from a template of this folder.

    Args:
        filters: what the template writes after a bar.
    """
    environment = Environment(
        loader=PackageLoader("nofreelunch.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(filters)
    return environment.get_template(template).render(values).encode(errors="backslashreplace")
