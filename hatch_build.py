"""Metadata of a built package: the README, with absolute links once the project has an address.

The address is `Repository` of `[project.urls]` in pyproject.toml, and stands nowhere else. As long
as there is none, links stay as they are: relative to the repository's root.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\n)*)\]\((?!https?:|#|mailto:)([^)\s]+)\)")


def absolute(text: str, address: str) -> str:
    """Markdown with links to files of the repository made absolute; pictures to the raw files."""
    if not address:
        return text

    def link(match: re.Match[str]) -> str:
        picture, words, path = match.groups()
        return (
            f"{picture}[{words}]({address.rstrip('/')}/{'raw' if picture else 'blob'}/main/{path})"
        )

    return LINK.sub(link, text)


class Readme(MetadataHookInterface):
    """Fills in the field `readme`, which pyproject.toml lists as dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text("utf-8")
        address = metadata.get("urls", {}).get("Repository", "")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, address)}
