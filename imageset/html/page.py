"""Render self-contained HTML pages from the Jinja2 templates beside this module.

A page embeds its images and the one style sheet, has no scripts and loads nothing from elsewhere. Every value that
a template prints is escaped, control characters included, so that labels and file names cannot change the page.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from imageset.rejections import escape_control_characters

if TYPE_CHECKING:
    from jinja2 import Environment

HTML_DIR = Path(__file__).parent


class Figure(NamedTuple):
    """An image with a caption, for the macro `figure`.

    Attributes:
        image: the bytes of a PNG or a JPEG file.
        caption: the line under the image.
        is_plot: whether the image is a plot, which gets a white background and is scaled smoothly.
    """

    image: bytes
    caption: str
    is_plot: bool = False


def render_page(template: str, values: Mapping[str, Any]) -> bytes:
    """Render a template as a UTF-8 encoded HTML document.

    Args:
        template: the name of a file in templates/.
        values: the names that the template uses; `title` is needed by all of them.

    Raises:
        jinja2.UndefinedError: the template uses a name that `values` lacks.
    """
    return build_environment().get_template(template).render(values).encode()


@cache
def build_environment() -> Environment:
    """Return the Jinja2 environment of all pages: autoescape on, unknown names are errors."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # only the stages that write a page need it

    environment = Environment(
        loader=FileSystemLoader(HTML_DIR / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize_value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["style"] = (HTML_DIR / "style.css").read_text(encoding="utf-8")
    environment.filters |= {"data_uri": encode_data_uri, "percent": format_percent, "thousands": format_thousands}
    return environment


def finalize_value(value: Any) -> Any:
    """Spell out the control characters of a text that a template prints; leave other values and markup alone."""
    return escape_control_characters(value) if type(value) is str else value


def encode_data_uri(image: bytes) -> str:
    """Return the bytes of a PNG or a JPEG file as a data URI."""
    kind = "jpeg" if image.startswith(b"\xff\xd8") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def format_percent(share: float, digits: int = 1) -> str:
    """Return a share of 0..1 as percent: 0.125 -> `12.5%`."""
    return f"{share:.{digits}%}"


def format_thousands(num: int) -> str:
    """Return a number with separators: 1162 -> `1,162`."""
    return f"{num:,}"
