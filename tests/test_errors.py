import pytest

from pgmdiff.errors import required
from pgmdiff.integrations.azula import to_azula


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name="azula")

    monkeypatch.setattr("pgmdiff.errors.import_module", missing)
    with pytest.raises(ImportError, match=r"pip install 'pgmdiff\[azula\]'"):
        to_azula(lambda x, sigma: -x, None)


def test_a_library_that_fails_by_itself_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory
) -> None:
    (tmp_path / "broken_library.py").write_text("import a_part_that_is_missing")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_part_that_is_missing"):
        required("broken_library", "this test", "none")
