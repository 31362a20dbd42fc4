"""Pictures that are no plain files, as the server shows them: in archives, and from the web."""

import zipfile
from pathlib import Path

from tests.pages import web
from tests.pictures import encoded, scene
from tests.serving import serving

from sightline.index import Index
from sightline.sources.base import Opening, open_source


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
