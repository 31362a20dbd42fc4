"""Archives with pictures, made on the spot."""

import tarfile
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Literal


def make_zip(path: Path, files: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_tar(
    path: Path,
    files: Mapping[str, bytes],
    mode: Literal["w", "w:gz", "w:bz2", "w:xz"] = "w",
    *,
    mtime: int = 1_700_000_000,
) -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), mtime
            archive.addfile(info, BytesIO(data))
    return path
