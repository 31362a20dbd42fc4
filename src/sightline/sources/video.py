"""A source: a video, one picture for each scene, by how much a frame differs from the one before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
from numpy.typing import NDArray

from sightline.errors import SourceError, needing, summary
from sightline.files import write_atomically
from sightline.sources.files import unreadable, unreadable_item, valid
from sightline.text import printable
from sightline.types import Item, Value

_EVERY_S = 0.25  # between two frames that are compared
_CUT = 0.10  # mean difference, 0 to 1, of two frames that belong to different scenes
_LONGEST_S = 10.0  # a scene that goes on for longer is shown again
_SMALL = (32, 18)  # pixels of the frames that are compared
_QUALITY = 92


@dataclass(frozen=True, slots=True)
class Video:
    """One picture for each scene of a video, and one more for every ten seconds that it lasts.

    The times of the scenes are kept in the folder `cache`, since finding them decodes the whole video.
    """

    path: Path
    cache: Path | None = None

    @property
    def root(self) -> str:
        """The URI of the video."""
        return self.path.as_uri()

    def __iter__(self) -> Iterator[Item]:
        """The items; a video without frames is one that says so, and one that breaks off ends with one."""
        try:
            status = self.path.stat()
            stamp = f"{status.st_size}-{status.st_mtime_ns}"
            kept = (
                self.cache
                and self.cache / f"{sha256(f'{self.path}{stamp}'.encode('utf-8', 'replace')).hexdigest()}.json"
            )
            for time_s in _kept(kept) or _found(self.path, kept):
                yield frame_item(self.path, time_s, stamp)
        except (SourceError, OSError) as error:
            told = unreadable(self.path, error) if isinstance(error, OSError) else error
            yield unreadable_item(self.root, told, name=valid(self.path.name), folders=[])


def open_video(path: Path, cache: Path | None) -> Video:
    """A video as a source; `SourceError` if it has no frames, `ExtraMissing` without PyAV."""
    with _opened(path) as (_, stream):
        del stream
    return Video(path, cache / "scenes" if cache else None)


def time_of(fragment: str) -> float:
    """The seconds that what follows the # in a URI names: t=12.3, as media fragments are written (W3C)."""
    try:
        return float(parse_qs(fragment)["t"][0])
    except (KeyError, ValueError) as error:
        raise SourceError(f"#{fragment} names no time, expected #t=12.3: check the URI") from error


def frame_item(path: Path, time_s: float, stamp: str | None = None) -> Item:
    """The picture of a video at a time."""
    if stamp is None:
        try:
            stamp = f"{path.stat().st_size}-{path.stat().st_mtime_ns}"
        except OSError as error:
            raise unreadable(path, error) from error
    payload: dict[str, Value] = {"name": valid(path.name), "folders": [path.as_uri()], "time": round(time_s, 3)}
    with suppress(OSError, OverflowError, ValueError):
        payload["modified"] = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return Item(f"{path.as_uri()}#t={time_s:.3f}", stamp, partial(_read, path, time_s), payload)


def scenes(path: Path) -> Iterator[float]:
    """The seconds at which scenes begin, from one pass over the video; `SourceError` where it breaks off."""
    before: NDArray[np.float32] | None = None
    compared = shown = -_LONGEST_S
    with _opened(path) as (container, stream):
        for frame in _frames(path, container, stream):
            if frame.time - compared < _EVERY_S:
                continue
            small = frame.reformat(*_SMALL, format="rgb24").to_ndarray().astype(np.float32) / 255  # -> (18, 32, 3)
            is_cut = before is None or float(np.abs(small - before).mean()) > _CUT
            before, compared = small, frame.time
            if is_cut or frame.time - shown >= _LONGEST_S:
                shown = frame.time
                yield round(frame.time, 3)
    if before is None:
        raise _without_frames(path)


def _found(path: Path, kept: Path | None) -> Iterator[float]:
    times = []
    for time_s in scenes(path):
        times.append(time_s)
        yield time_s
    if kept:
        with suppress(OSError):  # a full disk costs time in the next run
            write_atomically(kept, json.dumps(times))


def _kept(path: Path | None) -> list[float]:
    if path is None:
        return []
    try:
        return [float(time_s) for time_s in json.loads(path.read_text("utf-8"))]
    except (OSError, ValueError):
        return []


def _read(path: Path, time_s: float) -> bytes:
    """The frame as a JPEG file, upright."""
    with _opened(path) as (container, stream):
        start = stream.start_time or 0
        container.seek(max(start, int(time_s / stream.time_base) - 1), stream=stream)
        for frame in _frames(path, container, stream):
            if frame.time >= time_s - 0.001:
                image = frame.to_image()
                turned = image.rotate(frame.rotation, expand=True) if getattr(frame, "rotation", 0) else image
                file = BytesIO()
                turned.save(file, "JPEG", quality=_QUALITY)
                return file.getvalue()
    raise SourceError(f"{printable(str(path))} has no frame at {time_s:.1f} s, expected one: index the video again")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first stream of pictures."""
    with needing(path, "video"):
        import av
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise unreadable(path, error) from error
        raise SourceError(
            f"{printable(str(path))} is not a readable video ({summary(error)}): fetch it again"
        ) from error
    with container:
        if not container.streams.video:
            raise _without_frames(path)
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield container, stream


def _frames(path: Path, container: Any, stream: Any) -> Iterator[Any]:
    import av

    try:
        yield from (frame for frame in container.decode(stream) if frame.time is not None)
    except av.FFmpegError as error:
        raise SourceError(f"{printable(str(path))} is incomplete ({summary(error)}): fetch it again") from error


def _without_frames(path: Path) -> SourceError:
    return SourceError(f"{printable(str(path))} has no frames, expected a video with pictures: leave it out")
