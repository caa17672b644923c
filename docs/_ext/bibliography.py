"""The directive `bibliography`: the list of sources, each with the names that cite it."""

from docutils import nodes
from sources import LIST, sources, users
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Bibliography(SphinxDirective):
    """Sections by subject, a list in each."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(LIST))
        return [self._section(subject, listed) for subject, listed in sources().items()]

    def _section(self, subject: str, listed: list) -> nodes.section:
        section = nodes.section(
            "", nodes.title("", subject), names=[nodes.fully_normalize_name(subject)]
        )
        self.state.document.note_implicit_target(section, section)
        items = nodes.bullet_list(classes=["sources"])
        for source in sorted(listed, key=_place):
            items += self._item(source)
        section += items
        return section

    def _item(self, source: dict) -> nodes.list_item:
        venue = f" {source['venue']}," if "venue" in source else ""
        item = nodes.list_item()
        item += nodes.paragraph(
            "", "", nodes.Text(f"{source['authors']}. "), nodes.emphasis("", source["title"]),
            nodes.Text(f".{venue} {source['year']}."),
        )  # fmt: skip
        here = users()[source["title"]]
        if here:
            names = [part for name in here for part in (nodes.literal("", name), nodes.Text(", "))]
            item += nodes.paragraph("", "", nodes.Text("In "), *names[:-1], classes=["cited-in"])
        return item


def _place(source: dict) -> tuple[str, int]:
    """By the first author's family name, which stands last."""
    first = source["authors"].removesuffix(" et al.").split(",")[0]
    return first.split()[-1], source["year"]


def setup(app: Sphinx) -> dict:
    app.add_directive("bibliography", Bibliography)
    return {"parallel_read_safe": True}
