"""Names in tables are matched as people mean them, and never to a file that only might be meant."""

import unicodedata
from pathlib import Path

import pytest

from sightline.sources.table import FileFinder

NFC, NFD = (unicodedata.normalize(form, "café/Żółw ü.jpg") for form in ("NFC", "NFD"))


def find(folder: Path, files: list[str], name: str) -> str | None:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    found = FileFinder(folder).path(name)
    return found.relative_to(folder).as_posix() if found.exists() else None


@pytest.mark.parametrize(
    ("file", "name"),
    [
        (NFC, NFD),
        (NFD, NFC),
        (NFD, "CAFÉ/ŻÓŁW Ü.JPG"),
        ("a/b c.jpg", "a\\b c.jpg"),
        ("a/b c.jpg", ".\\a\\b%20c.jpg"),
        ("a/b c.jpg", "a/b%20c.jpg"),
        ("a/100%25.jpg", "a/100%25.jpg"),
        ("a/b.jpg", "A/B.JPG"),
        ("a/b.JPG", "a/b.jpg"),
        ("a/b.jpg", "C:\\pictures\\b.jpg"),
        ("deep/er/B.jpg", "b"),
        ("a/1163.JPEG", "1163"),
    ],
)
def test_a_file_is_found_whatever_system_wrote_its_name(tmp_path: Path, file: str, name: str) -> None:
    assert find(tmp_path, [file, "other/x.jpg"], name) == file


@pytest.mark.parametrize(
    ("files", "name", "found"),
    [
        (["a/b.jpg", "a/B.jpg"], "a/B.jpg", "a/B.jpg"),
        (["a/b.jpg", "a/B.jpg"], "B.jpg", "a/B.jpg"),
        (["x/Bb.jpg", "x/bB.jpg"], "x/BB.jpg", None),
        (["one/a.jpg", "two/a.jpg"], "a.jpg", None),
        (["one/a.jpg", "two/a.jpg"], "TWO\\a.jpg", "two/a.jpg"),
        (["one/a.jpg", "two/a.jpg"], "three/a.jpg", None),
        (["a%20b.jpg", "a b.jpg"], "a%20b.jpg", "a%20b.jpg"),
    ],
)
def test_a_name_that_may_be_two_files_names_neither(
    tmp_path: Path, files: list[str], name: str, found: str | None
) -> None:
    assert find(tmp_path, files, name) == found
