"""One filter means the same on the command line, in Python, over HTTP and while indexing."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image
from PIL.ExifTags import IFD, Base
from tests.pictures import encoded, scene
from tests.serving import Server, serving

from sightline.cli.main import main
from sightline.errors import WhereError
from sightline.index import Index

PICTURES = {
    # size, the clock of the camera, its offset from UTC, and the row of the table
    "a": ((64, 48), "2024:05:01 00:30:00", "+02:00", ("red", "10", "0042", "salt and pepper")),
    "b": ((80, 60), "2024:04:30 23:30:00", "-07:00", ("blue", "20.5", "0043", "a dog")),
    "c": ((128, 96), "2024:05:01 12:00:00", "", ("red", "30", "0044", "a cat")),
    "d": ((200, 100), "", "", ("green", "7", "0045", "2024")),
    "e": ((32, 32), "2023:12:31 23:59:59", "+00:00", ("red", "7", "0046", "")),
}
FILTERS = [
    ("width>=80", "bcd"),
    ("width >= 80", "bcd"),
    ("width!=80", "acde"),
    ("width<64", "e"),
    ('{"width": {"$gte": 80, "$lt": 200}}', "bc"),
    ("color=red", "ace"),
    ("color!=red", "bd"),
    ('{"color": {"$in": ["red", "blue"]}}', "abce"),
    ('{"$or": [{"color": "green"}, "price>=30"]}', "cd"),
    ("price<20.5", "ade"),
    ("price=7", "de"),
    ("code=0042", "a"),
    ('code="0043"', "b"),
    ("caption=salt and pepper", "a"),
    ("caption=2024", "d"),
    ("caption!=2024", "abce"),
    ('{"$match": "dog"}', "b"),
    ("name=c.jpg", "c"),
    ("format=png", ""),
    ("format=jpeg", "abcde"),
    ("taken=2024-05-01", "ac"),
    ("taken>=2024-05", "ac"),
    ("taken<2024-05", "be"),
    ("taken>2024-04", "ac"),
    ("taken<=2024-04-30", "be"),
    ("taken=2024", "abc"),
    ("taken!=2024", "de"),
    ("taken<=2023", "e"),
    ("taken=2023-12", "e"),
    ("taken>=2024-05-01T01:00", "c"),
    ("taken<2024-05-01T00:00:00Z", "ae"),
    ("taken>=2024-05-01T06:00:00+00:00", "bc"),
    ('{"taken": {"$gte": "2024-04-30", "$lte": "2024-04-30"}}', "b"),
    ('{"taken": {"$in": ["2023", "2024-05-01"]}}', "ace"),
    ('{"taken": {"$nin": ["2023", "2024-05-01"]}}', "bd"),
    ('{"taken": {"$datetime": "2024-05-01T12:00:00Z"}}', "c"),
    ('{"taken": {"$exists": false}}', "d"),
    ('{"nonsense": {"$exists": true}}', ""),
    ("modified>=2020", "abcde"),
    ("modified<2020-01-01", ""),
]
MISTAKES = [
    ("wdith>=100", "no picture has the field 'wdith', expected one of "),
    ("colour=red", "did you mean 'color'?"),
    ('{"$not": {"colour": "red"}}', "did you mean 'color'?"),
    ("width>=abc", "'abc' is not a number, which 'width' holds"),
    ('{"width": {"$gte": "80"}}', "'80' is not a number, which 'width' holds"),
    ("price=cheap", "'cheap' is not a number, which 'price' holds"),
    ('{"color": 5}', "5 is not text, which 'color' holds"),
    ("taken>=2024-13", "'2024-13' is not a valid date, expected YYYY, YYYY-MM or YYYY-MM-DD"),
    ("taken=2024-02-30", "'2024-02-30' is not a valid date"),
    ("taken>=yesterday", "'yesterday' is not a valid date"),
    ("modified>=2024-5", "'2024-5' is not a valid date"),
    ('{"taken": {"$datetime": "noon"}}', "'noon' is not a valid date"),
    ("width=>80", "did you mean width>=80?"),
    ("width==80", "did you mean width=80?"),
    ("width>=", "expected one behind >="),
    ("width>=60 and height>=60", "holds several conditions, expected one"),
    ("width", "is not a valid filter, expected FIELD, OPERATOR, VALUE"),
    ("{width: 80}", "where is not JSON"),
    ('{"width": {"$get": 80}}', "did you mean $gt"),
    ('{"wi\\"dth": 80}', "expected a name without quotes"),
]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    lines = ["image,color,price,code,caption"]
    for number, (name, (size, taken, offset, row)) in enumerate(PICTURES.items()):
        exif = Image.Exif()
        if taken:
            exif.get_ifd(IFD.Exif).update({Base.DateTimeOriginal: taken, Base.OffsetTimeOriginal: offset})
        (folder / f"{name}.jpg").write_bytes(encoded(scene(number, size), "JPEG", exif=exif))
        lines.append(",".join([f"{name}.jpg", *row]))
    (folder / "shop.csv").write_text("\n".join(lines))
    return folder / "shop.csv"


@pytest.fixture(scope="module")
def index(table: Path) -> str:
    with Index(str(table.parent / "shop.index"), model="pixels") as made:
        made.add(table)
    return str(table.parent / "shop.index")


@pytest.fixture(scope="module")
def server(index: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(index, cache=tmp_path_factory.mktemp("cache")) as running:
        yield running


def names(uris: list[str]) -> str:
    return "".join(sorted(uri.removesuffix(".jpg")[-1] for uri in uris))


def on_the_command_line(index: str, where: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    picture = str(Path(index).parent / "a.jpg")
    code = main(["search", "--image", picture, "--index", index, "--where", where, "--paths", "-k", "50"])
    said = capsys.readouterr()
    return code, names(said.out.splitlines()), said.err


def while_indexing(table: Path, where: str, made: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["index", str(table), "--index", str(made), "--model", "pixels", "--where", where, "--workers", "1"])
    said = capsys.readouterr()
    if code:
        return code, "", said.err
    with Index(str(made)) as found:
        return code, names([record.uri for record in found.store.scan()]), said.err


def over_http(server: Server, table: Path, where: Any) -> tuple[int, str, str]:
    picture = base64.b64encode((table.parent / "a.jpg").read_bytes()).decode()
    answer = server.ask("/api/search", {"image": picture, "where": where})
    if answer.status != 200:
        return answer.status, "", answer.json["detail"]
    return 200, names([hit["uri"] for hit in answer.json["hits"]]), ""


@pytest.mark.parametrize(("where", "expected"), FILTERS)
def test_a_filter_finds_the_same_everywhere(
    where: str,
    expected: str,
    index: str,
    server: Server,
    table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    as_value = json.loads(where) if where.startswith("{") else where
    with Index(index) as opened:
        assert names([hit.uri for hit in opened.search(image=table.parent / "a.jpg", k=50, where=where)]) == expected
        assert opened.count(as_value) == len(expected)
    assert on_the_command_line(index, where, capsys)[:2] == (0 if expected else 1, expected)
    assert over_http(server, table, as_value)[:2] == (200, expected)
    assert server.ask(f"/api/images?where={quote(where)}").json["total_estimate"] == len(expected)
    assert while_indexing(table, where, tmp_path / "part.index", capsys)[:2] == (0, expected)


@pytest.mark.parametrize(("where", "message"), MISTAKES)
def test_a_mistake_in_a_filter_is_said_the_same_everywhere(
    where: str,
    message: str,
    index: str,
    server: Server,
    table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Index(index) as opened:
        for look in (lambda: opened.count(where), lambda: opened.search(image=table.parent / "a.jpg", where=where)):
            with pytest.raises(WhereError) as caught:
                look()
            assert message in str(caught.value)
    code, _, said = on_the_command_line(index, where, capsys)
    assert (code, message in said) == (2, True), said
    code, _, said = while_indexing(table, where, tmp_path / "part.index", capsys)
    assert (code, message in said) == (2, True), said
    status, _, said = over_http(server, table, where)
    assert (status, message in said) == (422, True), said
    assert server.ask(f"/api/images?where={quote(where)}").status == 422


def test_the_folder_of_under_is_a_folder_or_one_of_the_index(index: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder, arguments = Path(index).parent, ["search", "--image", str(Path(index).parent / "a.jpg"), "--index", index]
    assert main([*arguments, "--under", str(folder)]) == 0
    assert main([*arguments, "--under", str(folder / "shop.csv")]) == 0
    assert main([*arguments, "--under", folder.as_uri()]) == 0
    capsys.readouterr()
    assert main([*arguments, "--under", "/nowhere"]) == 2
    assert "--under /nowhere is not a folder" in capsys.readouterr().err
