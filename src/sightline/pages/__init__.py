"""The self-contained HTML pages: their templates, styles and scripts, and the one place that fills them in, escaped."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

_FOLDER = Path(__file__).parent


def render(template: str, **values: Any) -> str:
    """The HTML of a template of this folder; a value that the template names and that is missing is an error."""
    return _environment().get_template(template).render(values)


def link(uri: str) -> str | None:
    """The address that a page links to; None for schemes that could run code, and for shares of other machines."""
    return uri if uri.startswith(("file:///", "http://", "https://")) else None


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # only a page needs it, not a search

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment
