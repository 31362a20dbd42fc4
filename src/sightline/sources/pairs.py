"""Pictures with words: the columns of caption tables and folders of classes, as index, evaluate and train read them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sightline.errors import SourceError
from sightline.sources.folder import is_picture

IMAGE_COLUMNS = (
    *("image", "image_url", "image_path", "url", "picture", "photo", "img", "image_name", "file_name", "filename"),
    *("path", "file", "filepath", "link", "jpg"),
)
"""Names of the column that holds the picture, the likeliest first; case does not matter."""

CAPTION_COLUMNS = ("caption", "captions", "comment", "text", "alt_text", "description", "title")
"""Names of the column that is taken for the caption, the likeliest first."""


@dataclass(frozen=True, slots=True)
class ClassFolder:
    """A folder of pictures of one class; `left_out` counts the files that are not pictures by their names."""

    path: Path
    words: str
    pictures: Sequence[Path]
    left_out: int


def column_of(columns: Sequence[str], usual: Sequence[str]) -> str | None:
    """The column with one of the usual names; None if there is none."""
    by_name = {column.strip().lower().replace(" ", "_"): column for column in columns}
    return next((by_name[name] for name in usual if name in by_name), None)


def class_folders(root: Path) -> list[ClassFolder]:
    """The folders in a folder, one a class, named after it: `red_panda/` and `red-panda/` hold "red panda"s.

    Raises `SourceError` if `root` is not a folder or cannot be read. Hidden folders and files are no part of it.
    """
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        found = list[ClassFolder]()
        for folder in folders:
            files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())
            pictures = [path for path in files if is_picture(path.name)]
            words = folder.name.replace("_", " ").replace("-", " ")
            found.append(ClassFolder(folder, words, pictures, len(files) - len(pictures)))
    except OSError as error:
        raise SourceError(f"{root} cannot be read ({error.strerror}), expected a folder for each class") from error
    return found
