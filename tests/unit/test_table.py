"""Tables of paths and URLs become items with what the table knows of each picture."""

import base64
import gc
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.pages import web
from tests.pictures import encoded, scene, write
from tests.waiting import until

from sightline.errors import SourceError
from sightline.index import Index
from sightline.sources import web as web_module
from sightline.sources.base import Opening, open_source, read_uri
from sightline.sources.web import Downloader, normal_url
from sightline.types import Item


def table(folder: Path, text: str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def items_of(path: Path, opening: Opening | None = None) -> list[Item]:
    return list(open_source(path, opening))


def test_columns_become_what_is_known_of_a_picture(tmp_path: Path) -> None:
    write(tmp_path, "photos/a.jpg", encoded(scene(1), "JPEG"))
    path = table(
        tmp_path,
        'image,caption,price,sku,on sale,width,$odd"name,empty\nphotos/a.jpg,a red car,12.5,007,TRUE,3,x,\n',
    )
    (item,) = items_of(path)
    assert item.uri == (tmp_path / "photos" / "a.jpg").as_uri()
    known = {name: item.payload[name] for name in ("caption", "price", "sku", "on sale", "width_given", "oddname")}
    assert known == {
        "caption": "a red car",
        "price": 12.5,
        "sku": "007",
        "on sale": True,
        "width_given": 3,
        "oddname": "x",
    }
    assert "empty" not in item.payload
    assert item.payload["folders"][-2:] == [(tmp_path / "photos").as_uri(), path.as_uri()]  # type: ignore[index]


def test_rows_of_one_picture_that_follow_each_other_are_one_item(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", encoded(scene(1), "JPEG"))
    path = table(tmp_path, "image\tcaption\tsplit\na.jpg\ta dog\ttrain\na.jpg\ttwo dogs\ttrain\n", "c.tsv")
    (item,) = items_of(path)
    assert item.payload["caption"] == ["a dog", "two dogs"]
    assert item.payload["split"] == "train"


def test_paths_start_from_the_folder_that_is_given(tmp_path: Path) -> None:
    write(tmp_path, "photos/a.jpg", encoded(scene(1), "JPEG"))
    write(tmp_path, "others/a.jpg", encoded(scene(2), "JPEG"))
    path = table(tmp_path, "image\na.jpg\n")
    (missing,) = items_of(path)
    with pytest.raises(SourceError, match="cannot be read"):
        missing.read()
    (item,) = items_of(path, Opening(base=tmp_path / "photos"))
    assert item.read() == encoded(scene(1), "JPEG")


def test_names_are_found_where_downloads_put_the_files(tmp_path: Path) -> None:
    for number, name in enumerate(["images/1163.jpg", "more/train/b c.png", "x/same.jpg", "y/same.jpg"]):
        write(tmp_path, name, encoded(scene(number), "JPEG"))
    path = table(tmp_path, "id,file\n1,images/1163\n2,1163\n3,b c.png\n4,wrong/b c\n5,same.jpg\n6,none.jpg\n")
    items = items_of(path, Opening(image="file"))
    found = [item.uri.removeprefix(f"{tmp_path.as_uri()}/") for item in items]
    assert found == ["images/1163.jpg"] * 2 + ["more/train/b%20c.png"] * 2 + ["same.jpg", "none.jpg"]
    with pytest.raises(SourceError, match="cannot be read"):
        items[4].read()


def test_rows_that_are_too_short_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", encoded(scene(1), "JPEG"))
    assert len(items_of(table(tmp_path, "caption,image\na dog\na cat,a.jpg\n"))) == 1


def test_a_table_without_pictures_lists_its_columns(tmp_path: Path) -> None:
    path = table(tmp_path, "sku,shelf\n1,2\n")
    with pytest.raises(SourceError, match=r"columns sku, shelf, expected one with paths or URLs.*--image-column"):
        open_source(path)
    with pytest.raises(SourceError, match="no column 'foto', expected --image-column to be one of sku, shelf"):
        open_source(path, Opening(image="foto"))
    assert [item.payload["shelf"] for item in items_of(path, Opening(image="sku"))] == [2]


def test_pictures_inside_a_table_are_read_from_it(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="needs the parquet extra")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the parquet extra")
    rows = [
        {
            "image": {"bytes": encoded(scene(n), "JPEG"), "path": None},
            "label": n,
            "at": datetime(2024, 1, 1, tzinfo=UTC),
        }
        for n in range(3)
    ]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    items = items_of(tmp_path / "a.parquet")
    assert [item.read() for item in items] == [encoded(scene(n), "JPEG") for n in range(3)]
    assert [item.payload["label"] for item in items] == [0, 1, 2]
    assert items[0].payload["at"] == datetime(2024, 1, 1, tzinfo=UTC)
    assert len({item.uri for item in items}) == 3
    assert [read_uri(item.uri) for item in items] == [item.read() for item in items]


def test_urls_go_over_the_line_in_ascii() -> None:
    assert normal_url("HTTP://a.example/ä b.jpg?q=ü#part") == "http://a.example/%C3%A4%20b.jpg?q=%C3%BC"
    assert normal_url("http://bücher.example/a%20b") == "http://xn--bcher-kva.example/a%20b"


KINDS = ("ok", "moved", "busy", "slow", "dead", "loop", "page", "mislabelled", "cut")


def test_every_good_picture_is_indexed_and_each_bad_one_has_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with web(lambda path: encoded(scene(int(path.split("/")[2])), "JPEG")) as served:
        rows = [f"{served.url}/{kind}/{n},{kind} {n}" for n, kind in enumerate(KINDS * 4)]
        path = table(tmp_path, "\n".join(["url,caption", *rows, "http://127.0.0.1:1/none,nobody"]))
        index = Index(str(tmp_path / "a.index"), model="pixels")
        source = open_source(path, Opening(cache=tmp_path / "cache"))
        summary = index.add(source)
        assert (summary.encoded, summary.failed) == (16, 21)
        assert {hit.payload["caption"].split()[0] for hit in index.store.scan()} == {"ok", "moved", "busy", "slow"}  # type: ignore[union-attr]
        reasons = {failure.uri.split("/")[3]: failure.reason for failure in index.failures()}
        assert "answers 404" in reasons["dead"]
        assert "too many redirects" in reasons["loop"]
        assert "an HTML page" in reasons["page"]
        assert "broke off" in reasons["cut"]
        assert "an HTML page" in reasons["mislabelled"]
        assert "refused" in reasons["none"]
        asked = served.asked.total()
        again = index.add(source)
        assert (again.unchanged, again.skipped, again.encoded) == (16, 21, 0)
        assert served.asked.total() == asked  # neither good nor bad ones are asked for again
        path.write_text(path.read_text().replace("ok 0", "other words"))
        changed = index.add(open_source(path, Opening(cache=tmp_path / "cache")))
        assert (changed.reused, served.asked.total()) == (1, asked)  # the cache has it
        assert index.count({"$match": "other words"}) == 1
    index.close()


def test_one_picture_in_two_rows_keeps_each_rows_own_words(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        write(tmp_path, name, encoded(scene(1), "JPEG"))
    path = table(tmp_path, "image,caption,price\na.jpg,a red car,5\nb.jpg,,7\n")
    with Index(str(tmp_path / "a.index"), model="pixels") as index:
        index.add(path)
        known = {record.payload["name"]: dict(record.payload) for record in index.store.scan()}
        assert (known["a.jpg"]["caption"], known["a.jpg"]["price"]) == ("a red car", 5)
        assert ("caption" in known["b.jpg"], known["b.jpg"]["price"]) == (False, 7)
        table(tmp_path, "image,caption,price\na.jpg,,5\nb.jpg,,7\n")
        index.add(path)
        assert index.count({"caption": {"$exists": True}}) == 0


def test_a_retry_keeps_what_the_table_knew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_module, "_RETRIES", 0)
    with web(lambda path: encoded(scene(1), "JPEG")) as served:
        path = table(tmp_path, f"url,caption\n{served.url}/busy/1,a red car\n")
        with Index(str(tmp_path / "a.index"), model="pixels") as index:
            assert index.add(path).failed == 1
            assert index.retry().encoded == 1
            assert [record.payload["caption"] for record in index.store.scan()] == ["a red car"]
            assert index.failures() == []
            assert index.add(path).unchanged == 1


def test_one_host_is_asked_by_a_few_at_a_time(tmp_path: Path) -> None:
    with web(lambda path: encoded(scene(1, (32, 32)), "JPEG")) as served:
        rows = "\n".join(f"{served.url}/slow/{number}" for number in range(48))
        with Index(str(tmp_path / "a.index"), model="pixels") as index:
            assert index.add(table(tmp_path, f"url\n{rows}\n")).seen == 48
        assert 4 <= served.most_at_once <= 8


def test_rows_that_left_the_table_leave_the_index_and_its_failures(tmp_path: Path) -> None:
    with web(lambda path: encoded(scene(len(path)), "JPEG")) as served:
        path = table(tmp_path, f"url\n{served.url}/ok/1\n{served.url}/ok/12\n{served.url}/dead/1\n")
        with Index(str(tmp_path / "a.index"), model="pixels") as index:
            index.add(path)
            table(tmp_path, f"url\n{served.url}/ok/1\n")
            summary = index.add(path)
            assert (summary.removed, index.count(), index.failures()) == (1, 1, [])


def test_a_picture_that_is_too_large_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_module, "_LARGEST_BYTES", 1 << 20)
    with web(lambda path: bytes(3 << 20)) as served, pytest.raises(SourceError, match=r"larger than 1\.0 MB"):
        Downloader().fetch(f"{served.url}/ok/1")


def test_a_failure_holds_no_pictures_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace would keep the batch that it came from until the garbage is collected."""
    monkeypatch.setattr(web_module, "_RETRIES", 0)
    for number in range(2):
        write(tmp_path, f"{number}.jpg", encoded(scene(number), "JPEG"))
    path = table(tmp_path, "image\n0.jpg\nhttp://127.0.0.1:1/gone.jpg\n")
    with Index(str(tmp_path / "a.index"), model="pixels") as index:
        index.add(path)  # loads what is loaded once
        path = table(tmp_path, "image\n1.jpg\nhttp://127.0.0.1:1/gone too.jpg\n")
        gc.collect()
        gc.disable()
        try:
            assert index.add(path).failed == 1
            until(lambda: not items_held(("http", tmp_path.as_uri())))  # a reader's thread may be about to end
        finally:
            gc.enable()


def items_held(prefixes: tuple[str, ...]) -> list[str]:
    """By their kind, not by isinstance, which would wake the lazy objects of other libraries."""
    return [found.uri for found in gc.get_objects() if type(found) is Item and found.uri.startswith(prefixes)]


def test_rows_of_one_picture_anywhere_in_the_table_are_one_item_with_all_words(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        write(tmp_path, name, encoded(scene(ord(name[0])), "JPEG"))
    rows = "a.jpg,one\nb.jpg,two\na.jpg,three\nb.jpg,four\na.jpg,five\n"
    path = table(tmp_path, f"image,caption\n{rows}")
    found = {item.payload["name"]: item.payload["caption"] for item in items_of(path)}
    assert found == {"a.jpg": ["one", "three", "five"], "b.jpg": ["two", "four"]}
    with Index(str(tmp_path / "a.index"), model="pixels") as index:
        assert index.add(path).encoded == 2
        assert index.add(path).unchanged == 2
        assert index.count({"$match": "one"}) == 1


def test_a_table_has_one_name_however_its_path_is_written(tmp_path: Path) -> None:
    path = table(tmp_path, "image\na.jpg\n")
    (tmp_path / "below").mkdir()
    assert open_source(tmp_path / "below" / ".." / path.name).root == path.as_uri()


def test_a_name_that_cannot_be_resolved_is_told_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_module, "_RETRIES", 0)
    (item,) = items_of(table(tmp_path, "url\nhttp://nowhere.invalid/a.jpg\n"))
    with pytest.raises(SourceError) as caught:
        item.read()
    assert str(caught.value).count("(") == str(caught.value).count(")") > 0


def test_what_is_no_text_is_no_list_of_blank_columns(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has no columns with names, expected one with paths or URLs"):
        open_source(table(tmp_path, "\n\n"))


def test_a_list_of_paths_is_a_table_without_a_header(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        write(tmp_path, name, encoded(scene(1), "JPEG"))
    path = table(tmp_path, f"{tmp_path / 'a.jpg'}\nb.jpg\n", "list.txt")
    assert [item.payload["name"] for item in items_of(path)] == ["a.jpg", "b.jpg"]
    captioned = table(tmp_path, "a.jpg\ta red car\nb.jpg\ta dog\n", "list.tsv")
    assert [item.payload["caption"] for item in items_of(captioned)] == ["a red car", "a dog"]


def test_cells_may_hold_the_picture_itself(tmp_path: Path) -> None:
    picture = encoded(scene(1), "JPEG")
    packed = base64.b64encode(picture).decode()
    wrapped = base64.encodebytes(picture).decode()
    cells = [f"data:image/jpeg;base64,{packed}", packed, wrapped, "data:image/jpeg;base64,!!!", "data:,no%20picture"]
    rows = [{"image": cell, "caption": f"row {number}"} for number, cell in enumerate(cells, 1)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = list(open_source(tmp_path / "t.jsonl"))
    assert [item.uri.partition("#")[2] for item in found] == ["1", "2", "3", "4", "5"]
    assert [item.read() for item in found[:3]] == [picture] * 3
    assert found[4].read() == b"no picture"
    with pytest.raises(SourceError, match="not valid base64") as error:
        found[3].read()
    assert len(str(error.value)) < 200
    assert found[1].payload["name"] == "row 2"
