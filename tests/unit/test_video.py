"""A video becomes one picture for each of its scenes."""

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from tests.pictures import scene

from sightline.errors import SourceError
from sightline.index import Index
from sightline.sources.base import Opening, open_source, read_uri

av = pytest.importorskip("av", reason="needs the video extra")
SIZE = (160, 96)


def make_video(path: Path, seconds: list[float], *, rate: int = 8) -> Path:
    """A scene for each number, so many seconds long."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for number, length in enumerate(seconds):
            frame = av.VideoFrame.from_image(scene(number, SIZE))
            for _ in range(int(length * rate)):
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_each_scene_is_a_picture_and_a_long_one_several(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a film.mp4", [2, 3, 21])
    items = list(open_source(path))
    assert [item.payload["time"] for item in items] == [0.0, 2.0, 5.0, 15.0, 25.0]
    for item, number in zip(items, [0, 1, 2, 2, 2], strict=True):
        assert item.uri == f"{path.as_uri()}#t={item.payload['time']:.3f}"
        assert item.read() == item.read() == read_uri(item.uri)
        shown, drawn = Image.open(BytesIO(item.read())).resize((4, 4)), scene(number, SIZE).resize((4, 4))
        assert sum(abs(a - b) for a, b in zip(shown.tobytes(), drawn.tobytes(), strict=True)) / 48 < 8


def test_a_second_run_decodes_nothing(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", [1, 1])
    opening = Opening(cache=tmp_path / "cache")
    with Index(str(tmp_path / "a.index"), model="pixels") as index:
        assert index.add(open_source(path, opening)).encoded == 2
        (kept,) = (tmp_path / "cache").rglob("*.json")
        kept.write_text("[0.0]")  # what is kept is believed
        assert len(list(open_source(path, opening))) == 1
        kept.unlink()
        assert index.add(open_source(path, opening)).unchanged == 2
        assert index.count({"time": {"$gte": 1}}) == 1


def test_a_pattern_names_several_videos(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mkv"):
        make_video(tmp_path / name, [1, 1])
    assert len(list(open_source(str(tmp_path / "*.m*")))) == 4


def test_a_video_without_frames_is_said(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.sample_rate = 8000
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(SourceError, match=r"sound.mp4 has no frames, expected a video with pictures"):
        open_source(tmp_path / "sound.mp4")
    (tmp_path / "empty.mp4").write_bytes(b"nothing of the kind")
    with pytest.raises(SourceError, match="is not a readable video"):
        open_source(tmp_path / "empty.mp4")
    with pytest.raises(SourceError, match="cannot be read"):
        open_source(tmp_path / "gone.mp4")


def test_a_video_that_breaks_off_offers_what_is_there(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mkv", [2, 2, 2])
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    items = [item for item in open_source(path) if item.stamp != "unreadable"]
    assert 1 <= len(items) < 3
    assert all(item.read() for item in items)
