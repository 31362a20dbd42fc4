"""Patterns leave pictures of a folder out, as git's do; links to folders above are not followed."""

import os
from pathlib import Path

import pytest
from tests.pictures import encoded, scene, write

from sightline.errors import SourceError, UsageError
from sightline.sources.base import Opening, open_source
from sightline.sources.files import path_of

JPEG = encoded(scene(1), "JPEG")
NAMES = ("a.jpg", "b.tmp.jpg", "trash/c.jpg", "sub/d.jpg", "sub/b.tmp.jpg", "sub/trash/e.jpg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        write(tmp_path, name, JPEG)
    return tmp_path


def names(folder: Path, *exclude: str) -> set[str]:
    return {os.path.relpath(path_of(item.uri), folder) for item in open_source(folder, Opening(exclude=tuple(exclude)))}


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["*.tmp.jpg"], {"a.jpg", "trash/c.jpg", "sub/d.jpg", "sub/trash/e.jpg"}),
        (["trash/"], {"a.jpg", "b.tmp.jpg", "sub/d.jpg", "sub/b.tmp.jpg"}),
        (["/trash"], set(NAMES) - {"trash/c.jpg"}),
        (["sub/*.jpg"], {"a.jpg", "b.tmp.jpg", "trash/c.jpg", "sub/trash/e.jpg"}),
        (["*.jpg", "!d.jpg"], {"sub/d.jpg"}),
        (["# a comment", ""], set(NAMES)),
        (["*"], set()),
    ],
)
def test_patterns_leave_out_what_they_match(folder: Path, patterns: list[str], left: set[str]) -> None:
    assert names(folder, *patterns) == left
    (folder / ".sightlineignore").write_text("\n".join(patterns))
    assert names(folder) == left


def test_the_file_of_a_folder_below_decides_over_one_above_and_the_command_over_both(folder: Path) -> None:
    (folder / ".sightlineignore").write_text("*.tmp.jpg\n")
    (folder / "sub" / ".sightlineignore").write_text("!*.tmp.jpg\n/d.jpg\n")
    assert names(folder) == {"a.jpg", "trash/c.jpg", "sub/b.tmp.jpg", "sub/trash/e.jpg"}
    assert names(folder, "!d.jpg", "trash/") == {"a.jpg", "sub/b.tmp.jpg", "sub/d.jpg"}


def test_a_file_of_patterns_that_cannot_be_read_is_a_failure_of_its_folder(folder: Path) -> None:
    (folder / "sub" / ".sightlineignore").write_text("!\n")
    found = list(open_source(folder))
    (failed,) = [item for item in found if item.uri == (folder / "sub").as_uri()]
    with pytest.raises(SourceError, match=r"\.sightlineignore.*expected patterns as in \.gitignore"):
        failed.read()
    assert len(found) == 4
    with pytest.raises(UsageError, match="--exclude"):
        names(folder, "!")


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_a_link_to_a_folder_above_is_not_followed(folder: Path) -> None:
    above = folder.parent / "above"
    write(above, "outside.jpg", JPEG)
    (folder / "sub" / "up").symlink_to(folder.parent)
    (folder / "sub" / "self").symlink_to(folder)
    assert names(folder) == set(NAMES)
    assert names(folder / "sub") == {"d.jpg", "b.tmp.jpg", "trash/e.jpg"}
    (folder / "beside").symlink_to(above)
    assert names(folder) == {*NAMES, "beside/outside.jpg"}
