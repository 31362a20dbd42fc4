"""Pictures that are no plain files, as the server shows them: in archives, and from the web."""

import zipfile
from pathlib import Path

from tests.pages import web
from tests.pictures import encoded, scene
from tests.serving import serving

from sightline.index import Index
from sightline.sources.base import Opening, open_source
from sightline.sources.select import Selected


def test_a_picture_in_an_archive_has_a_thumbnail(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "shots.zip", "w") as archive:
        archive.writestr("trip/a.jpg", encoded(scene(1), "JPEG"))
    with Index(str(tmp_path / "a.index"), model="mini") as index:
        index.add(tmp_path / "shots.zip")
        (record,) = index.store.scan()
    with serving(tmp_path / "a.index", cache=tmp_path) as server:
        reply = server.ask(f"/api/images/{record.id}/thumbnail?size=160")
        assert (reply.status, reply.headers["Content-Type"]) == (200, "image/webp")
        assert server.ask("/api/search?q=a+picture").json["hits"][0]["id"] == record.id


def test_a_picture_from_the_web_is_shown_from_the_copy_that_indexing_kept(tmp_path: Path) -> None:
    with web(lambda path: encoded(scene(len(path)), "JPEG")) as served:
        (tmp_path / "t.csv").write_text(f"url\n{served.url}/ok/1\n{served.url}/ok/22\n")
        opening = Opening(cache=tmp_path / "pictures")  # where the server's SIGHTLINE_CACHE has it
        with Index(str(tmp_path / "a.index"), model="mini") as index:
            index.add(open_source(tmp_path / "t.csv", opening))
            by_uri = {record.uri: record.id for record in index.store.scan()}
        kept, lost = by_uri[f"{served.url}/ok/1"], by_uri[f"{served.url}/ok/22"]
        asked = served.asked.total()
        with serving(tmp_path / "a.index", cache=tmp_path) as server:
            assert server.ask(f"/api/images/{kept}/thumbnail?size=160").status == 200
            for path in (tmp_path / "pictures").rglob("*"):
                path.unlink() if path.is_file() else None
            assert server.ask(f"/api/images/{lost}/thumbnail?size=160").status == 404
        assert served.asked.total() == asked  # the server itself fetches nothing


def test_what_was_indexed_in_part_alone_or_from_a_table_is_shown(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    for seed in range(4):
        scene(seed).save(tmp_path / "disk" / f"{seed}.png")
    (tmp_path / "photos").symlink_to(tmp_path / "disk", target_is_directory=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("row.png", "alone.png"):
        scene(len(name)).save(tmp_path / "elsewhere" / name)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "t.csv").write_text(f"image\n{tmp_path / 'elsewhere' / 'row.png'}\n")
    with Index(str(tmp_path / "a.index"), model="pixels") as index:
        index.add(Selected(open_source(tmp_path / "photos"), limit=2))
        index.add(tmp_path / "lists" / "t.csv")
        index.add(tmp_path / "elsewhere" / "alone.png")
        ids = {record.payload["name"]: record.id for record in index.store.scan()}
        assert index.info()["roots"][(tmp_path / "photos").as_uri()]["is_part"]
        index.add(tmp_path / "photos")
        index.add(Selected(open_source(tmp_path / "photos"), limit=2))
        assert "is_part" not in index.info()["roots"][(tmp_path / "photos").as_uri()]
    assert set(ids) == {"0.png", "1.png", "row.png", "alone.png"}
    with serving(tmp_path / "a.index", cache=tmp_path) as server:
        assert [server.ask(f"/api/images/{name}/thumbnail").status for name in ids.values()] == [200] * 4
