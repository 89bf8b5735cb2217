"""The page while it is put together."""

from dataclasses import dataclass, field
from typing import Any

from imageset.html.images import encode_compact
from imageset.html.page import Figure


@dataclass
class ExplainPage:
    """The page while it is put together.

    Attributes:
        sections: the values of each section, by its name in the template explain.html.
        files: the PNG files that are also written beside the page, by name.
    """

    sections: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)

    def add_figure(self, name: str, png: bytes, caption: str, is_plot: bool = False) -> Figure:
        """Keep an image as a file and return it as a figure."""
        self.files[f"{name}.png"] = png
        return Figure(png if is_plot else encode_compact(png), caption, is_plot)
