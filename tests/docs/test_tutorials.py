"""Every tutorial runs as a notebook, without warnings and with a description of each figure."""

import pytest

pytest.importorskip("nbclient")

from scripts.run_tutorials import ROOT, TUTORIALS, executed, images

pytestmark = pytest.mark.filterwarnings("ignore")  # Jupyter's own warnings


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial(tutorial) -> None:
    notebook = executed(tutorial)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert outputs, "a tutorial has outputs"
    complaints = [output.text for output in outputs if output.get("name") == "stderr"]
    assert not complaints
    undescribed = [cell.source for cell, _ in images(notebook) if not cell.metadata.get("alt")]
    assert not undescribed, 'figures need an alt text: # %% alt="what the figure shows"'


def test_every_tutorial_is_listed() -> None:
    for page in (ROOT / "tutorials" / "README.md", ROOT / "docs" / "tutorials" / "index.md"):
        listed = page.read_text()
        assert [t.stem for t in TUTORIALS if t.stem not in listed] == []
