"""One query text means the same on the command line, in Python and over HTTP."""

import base64
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from PIL import Image
from tests.pictures import encoded, scene
from tests.serving import Server, answering, serving

from sightline.cli.main import main
from sightline.cli.search import _table
from sightline.errors import UsageError, WhereError
from sightline.index import Index
from sightline.query import Term

TEXTS = {
    "dog -snow": "dog - snow",
    "dog - snow": "dog - snow",
    "a dog + 2:a red car": "a dog + 2:a red car",
    '"dog - snow"': "dog - snow",
    "16:9 wallpaper": "16:9 wallpaper",
    "id:card": "id:card",
    "dog -snow storm": "dog storm - snow",
    "dog 2:red car": "dog + 2:red car",
    "a circle width:64": "a circle",
    'a circle "width:12"': 'a circle "width:12"',
    "a circle colour:red": "a circle colour:red",
    "a circle -width:12": "a circle",
    "a photo called sunset.png": "a photo called sunset.png",
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("texts")
    for number in range(4):
        scene(number, (64, 48)).save(folder / f"{number}.png")
    with Index(str(folder / "photos.index"), model="mini") as index:
        index.add(folder)
    return str(folder / "photos.index")


@pytest.fixture(scope="module")
def server(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(url, cache=tmp_path_factory.mktemp("cache")) as running:
        yield running


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_means_the_same_on_every_surface(
    text: str, url: str, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    with Index(url) as index:
        by_python = index.search(text, k=4).to_dict()
    assert main(["search", text, "--index", url, "-k", "4", "--json"]) == 0
    by_command = json.loads(capsys.readouterr().out)
    over_http = json.loads(server.ask("/api/search", {"text": text, "k": 4}).body)
    assert by_python["query"] == by_command["query"] == TEXTS[text]
    found = [[(hit["id"], hit["score"]) for hit in answer["hits"]] for answer in (by_python, by_command, over_http)]
    assert found[0] == found[1] == found[2]


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Twelve pictures of a camera each second month, half of them in a folder."""
    folder = tmp_path_factory.mktemp("dated")
    (folder / "Tante Erna").mkdir()
    for number in range(12):
        exif = Image.Exif()
        exif[0x0110] = "Canon EOS 5D" if number % 2 else "Pixel 7"
        exif.get_ifd(0x8769)[0x9003] = f"{2020 + number // 3}:{number + 1:02}:10 12:00:00"
        place = folder / "Tante Erna" if number < 6 else folder
        scene(number, (64, 48)).save(place / f"{11 - number:02}.jpg", exif=exif)
    with Index(str(folder / "photos.index"), model="mini") as index:
        index.add(folder)
    return str(folder / "photos.index")


FILTERED = [
    ("taken:2021", 3), ("taken:2021..2022", 6), ("taken:2022..", 6), ("taken:..2020-02", 2), ("taken:>=2023-11", 2),
    ("year:2020 camera:canon", 1), ("camera:\"canon eos\"", 6), ("-camera:canon", 6), ("under:\"tante erna\"", 6),
    ("width:64", 12), ("width:>64", 0),
]  # fmt: skip


@pytest.mark.parametrize(("filters", "count"), FILTERED)
def test_filters_in_a_question(filters: str, count: int, dated: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Index(dated) as index:
        hits = index.search(f"a circle {filters}", k=50)
        assert (len(hits), hits.query) == (count, "a circle")
    if not filters.startswith("-"):
        assert main(["search", filters, "--index", dated, "-k", "50", "--paths"]) == (0 if count else 1)
        names = [line.rpartition("/")[2] for line in capsys.readouterr().out.splitlines() if line.endswith(".jpg")]
        assert len(names) == count
        assert names == sorted(names), "the newest first: they were named so"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dog taken:yesterday", "'yesterday' is not a valid date"),
        ("dog under:nowhere", "no picture lies in a folder called 'nowhere'"),
        ("dog camera:leica", "no picture has the camera 'leica', expected one of Canon EOS 5D, Pixel 7"),
    ],
)
def test_a_filter_in_a_question_that_cannot_be_is_said(text: str, said: str, dated: str) -> None:
    with Index(dated) as index, pytest.raises(WhereError, match=said):
        index.search(text)


def test_a_question_is_explained_and_filters_are_offered(dated: str, capsys: pytest.CaptureFixture[str]) -> None:
    question = "dog of erna 2021 in may 2021 canon taken:2020.. -snow 2:red"
    assert main(["search", question, "--index", dated, "--explain", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(part["value"], part["weight"]) for part in told["terms"]] == [
        ("dog of erna 2021 in may 2021 canon", 1), ("snow", -1), ("red", 2),
    ]  # fmt: skip
    assert "taken" in json.dumps(told["where"])
    assert {one["filter"]: one["pictures"] for one in told["offered"]} == {
        "taken:2021": 3, "taken:2021-05": 1, 'camera:"Canon EOS 5D"': 6, 'under:"Tante Erna"': 6,
    }  # fmt: skip
    assert main(["search", question, "--index", dated, "--explain"]) == 0
    assert "offered     taken:2021   (3 pictures)" in capsys.readouterr().out


@pytest.mark.parametrize("order", ["newest", "oldest", "name", "size"])
def test_likely_hits_alone_are_sorted(order: str, dated: str) -> None:
    with Index(dated) as index:
        every = index.search("canon", by="text", k=50)
        found = index.search("canon", by="text", k=50, sort=order)
        pages = [index.search("canon", by="text", k=2, offset=at, sort=order).hits for at in (0, 2, 4)]
        assert {hit.id for hit in found} == {hit.id for hit in every}
        assert [hit for page in pages for hit in page] == list(found)
        of = {"newest": "taken", "oldest": "taken", "name": "name", "size": "size_bytes"}[order]
        values = [hit.payload[of] for hit in found]
        assert values == sorted(values, reverse=order in ("newest", "size"))
        likely = index.search("a circle", k=50).likely
        assert likely is not None
        assert {hit.id for hit in index.search("a circle", k=50, sort=order)} == {hit.id for hit in likely}
        with pytest.raises(UsageError, match="ask with words, or do not sort"):
            index.search(image=scene(1, (64, 48)), sort=order)


def test_a_part_of_a_picture_is_searched_by_on_every_surface(
    url: str, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = Image.new("RGB", (128, 48))
    for place, number in ((0, 0), (64, 2)):
        both.paste(scene(number, (64, 48)), (place, 0))
    both.save(tmp_path / "both.png")
    right = ["--region", "0.5,0,0.5,1"]
    assert main(["search", str(tmp_path / "both.png"), "--index", url, "-k", "4", "--json", *right]) == 0
    by_command = json.loads(capsys.readouterr().out)["hits"]
    picture = {"image": base64.b64encode((tmp_path / "both.png").read_bytes()).decode(), "region": [0.5, 0, 0.5, 1]}
    over_http = [
        json.loads(server.ask("/api/search", body | {"k": 4}).body) for body in (picture, {"terms": [picture]})
    ]
    with Index(url) as index:
        by_python = index.search(image=tmp_path / "both.png", region=(0.5, 0, 0.5, 1), k=4)
        parts = [Term("image", both, region=(0, 0, 0.5, 1)), Term("image", both, -0.1, region=(0.5, 0, 0.5, 1))]
        assert index.search(terms=parts)[0].payload["name"] == "0.png"
    found = [[(hit["id"], hit["score"]) for hit in hits] for hits in (by_command, *(one["hits"] for one in over_http))]
    assert found[0] == found[1] == found[2] == [(hit.id, round(hit.score, 4)) for hit in by_python]
    assert by_python[0].payload["name"] == "2.png"
    assert by_python[0].score > 0.98


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["PICTURE", "--region", "0.5,0,0.6,1"], "the region is 0.5,0.0,0.6,1.0, expected x,y,width,height as shares"),
        (["PICTURE", "--region", "0,0,0,1"], "that lie within it"),
        (["PICTURE", "--region", "nan,0,1,1"], "that lie within it"),
        (["PICTURE", "--region", "a half"], "expected four numbers from 0 to 1"),
        (["a dog", "--region", "0,0,1,1"], "--region is a part of a picture, but the query has none"),
    ],
)
def test_a_part_that_cannot_be_is_said(
    arguments: list[str], said: str, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene(1, (64, 48)).save(tmp_path / "one.png")
    given = [str(tmp_path / "one.png") if one == "PICTURE" else one for one in arguments]
    assert main(["search", *given, "--index", url]) == 2
    assert said in capsys.readouterr().err


def test_signs_in_a_text_do_what_terms_do(url: str) -> None:
    with Index(url) as index:
        terms = [Term("text", "a red circle"), Term("text", "a blue square", -1.0)]
        assert index.search("a red circle - a blue square").hits == index.search(terms=terms).hits


@pytest.mark.parametrize("text", ["собака", "🐶 🐱", "犬が走る", "x" * 1500])
def test_text_that_the_model_cannot_read_is_said(
    text: str, url: str, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "is not text that model 'mini' can read"
    with Index(url) as index, pytest.raises(UsageError, match=said):
        index.search(text)
    assert main(["search", text, "--index", url]) == 2
    assert said in capsys.readouterr().err
    answer = server.ask("/api/search", {"text": text})
    assert answer.status == 422
    assert said in answer.body.decode()


@pytest.mark.parametrize("text", ["ein Hund am Strand", "perro en la playa"])
def test_another_language_is_searched_and_doubted_on_every_surface(
    text: str, url: str, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    with Index(url) as index:
        hits = index.search(text)
        assert "perhaps not understood: model 'mini' reads English" in hits.note
        assert hits.note in str(hits)
        assert "perhaps not understood" in hits._repr_html_()
        assert index.search("a dog on the beach").note == ""
    assert main(["search", text, "--index", url]) == 0
    assert capsys.readouterr().err.startswith(f"sightline: {text!r} is perhaps not understood")
    assert main(["search", text, "--json", "--index", url]) == 0
    by_command, by_server = capsys.readouterr(), json.loads(server.ask("/api/search", {"text": text}).body)
    assert json.loads(by_command.out)["note"] == by_server["note"] == hits.note
    assert not by_command.err


@pytest.mark.parametrize("text", ["a dog 🐶", "café", "2024", "naïve art in Zürich"])
def test_text_that_the_model_reads_mostly_is_searched(text: str, url: str) -> None:
    with Index(url) as index:
        assert len(index.search(text)) == 4


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An index of thirty pictures, of which two have what is searched for in title or name, and one in Han."""
    folder = tmp_path_factory.mktemp("written")
    lines = ["image\ttitle"]
    for number in range(30):
        name = "tante erna.png" if number == 3 else f"{number}.png"
        title = {5: "Numero Uno Jeans", 8: "富士山の雪"}.get(number, f"thing {number}")
        scene(number, (64, 48)).save(folder / name)
        lines.append(f"{name}\t{title}")
    (folder / "things.tsv").write_text("\n".join(lines), "utf-8")
    with Index(str(folder / "photos.index"), model="mini") as index:
        index.add(folder / "things.tsv")
    return str(folder / "photos.index")


@pytest.fixture(scope="module")
def written_server(written: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(written, cache=tmp_path_factory.mktemp("cache")) as running:
        yield running


@pytest.mark.parametrize("by", ["both", "text", "meaning"])
@pytest.mark.parametrize(
    ("text", "name", "field"),
    [("numero uno", "5.png", "title"), ("tante erma", "tante erna.png", "name"), ("富士山", "8.png", "title")],
)
def test_written_words_are_found_and_shown_on_every_surface(
    text: str, name: str, field: str, by: str, written: str, written_server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    if (text, by) == ("富士山", "meaning"):
        pytest.skip("mini reads no Han")
    with Index(written) as index:
        by_python = index.search(text, k=3, by=by).to_dict()
    assert main(["search", text, "--index", written, "-k", "3", "--json", "--by", by]) == 0
    by_command = json.loads(capsys.readouterr().out)
    over_http = json.loads(written_server.ask("/api/search", {"text": text, "k": 3, "by": by}).body)
    answers = [by_python, by_command, over_http]
    found = [[(hit["id"], hit["score"], json.dumps(hit["evidence"])) for hit in one["hits"]] for one in answers]
    assert found[0] == found[1] == found[2]
    first = by_command["hits"][0]
    assert (first["payload"]["name"] == name and field in first["evidence"]) == (by != "meaning")
    if by == "both" and text == "numero uno":
        assert first["is_likely"]


def test_marked_words_are_bold_in_a_terminal(written: str) -> None:
    with Index(written) as index:
        text = _table(index.search("numero jeans", k=1))
    assert text.splitlines()[-1].endswith("title: \x1b[1mNumero\x1b[0m Uno \x1b[1mJeans\x1b[0m")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--by", "text", "nothing like it"], ""),
        (["--by", "text", "🎉"], "a search by text needs words"),
        (["--by", "text", "+ -"], "the query is empty"),
        (["--by", "names", "dog"], "invalid choice"),
        (["--by", "text", 'dog AND (OR) NEAR * ^ : "un'], ""),
    ],
)
def test_what_cannot_be_found_by_text_is_said(
    arguments: list[str], said: str, written: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["search", *arguments, "--index", written])
    except SystemExit as error:
        code = int(str(error.code))
    assert code == (2 if said else 1)
    assert said in capsys.readouterr().err


def test_words_that_are_nowhere_written_change_nothing(url: str) -> None:
    with Index(url) as index:
        assert index.search("a red circle", k=4).hits == index.search("a red circle", k=4, by="meaning").hits


def test_a_copy_takes_the_line_along_and_verify_compares_it(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = str(tmp_path / "copy.index")
    assert main(["copy", url, copied, "--quiet"]) == 0
    with Index(url) as one, Index(copied) as other:
        assert one.store.notes("line")
        assert other.search("a red circle").to_dict()["hits"] == one.search("a red circle").to_dict()["hits"]
    assert main(["verify", url, copied, "--sample", "3"]) == 0
    with Index(copied) as other:
        other.store.write_notes("line", {"line": None})
    assert main(["verify", url, copied, "--sample", "3"]) == 1
    assert "another one: hits are judged otherwise" in capsys.readouterr().out


def test_a_filter_alone_lists_what_passes(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--where", "width>=10", "-k", "3", "--index", url, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["total"], len(answer["hits"])) == (4, 3)
    assert main(["search", "--where", "width>=1000", "--index", url]) == 1
    assert "no picture passes the filter" in capsys.readouterr().out
    assert main(["search", "--where", "width>=10", "--fold", "--index", url]) == 2
    assert main(["search", "--index", url]) == 2
    assert "the query is empty" in capsys.readouterr().err


def test_a_list_by_filter_goes_to_other_programs(url: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["search", "--where", "name=2.png", "--index", url, "--paths"]) == 0
    assert capfdbinary.readouterr().out == f"{Path(url).parent / '2.png'}\n".encode()


class Site(BaseHTTPRequestHandler):
    """A web site with one picture, and a redirect to it."""

    picture = encoded(scene(2, (64, 48)), "PNG")

    def do_GET(self) -> None:
        body = {"/2.png": self.picture, "/text": b"no picture"}.get(self.path.partition("?")[0], b"")
        self.send_response(302 if self.path == "/moved" else 200 if body else 404)
        self.send_header("Location", "/2.png")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.parametrize("page", ["2.png", "2.png?size=64&x=%20", "moved"])
def test_the_url_of_a_picture_is_that_picture(page: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(url).parent / "2.png"
    with answering(Site) as address, Index(url) as index:
        there = f"http://{address}/{page}"
        expected = index.search(image=path, k=3).hits
        assert expected[0].uri == path.as_uri()
        for found in (index.search(image=there, k=3), index.search(there, k=3)):
            assert [hit.id for hit in found] == [hit.id for hit in expected]
            assert found[0].score > 0.999
        for arguments in (["search", there], ["search", "--image", there]):
            assert main([*arguments, "--index", url, "-k", "3", "--json"]) == 0
            shown = json.loads(capsys.readouterr().out)["hits"]
            assert [hit["id"] for hit in shown] == [hit.id for hit in expected]
        added = Index("memory:", model="pixels")
        assert added.add(there).encoded == 1
        assert [record.uri for record in added.store.scan()] == [there]


def test_a_url_without_a_picture_is_an_error_that_names_it(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(Site) as address, Index(url) as index:
        for page, part in (("missing.png", "404"), ("text", "picture")):
            with pytest.raises(UsageError, match=f"{address}/{page}.*{part}"):
                index.search(image=f"http://{address}/{page}")
            assert main(["search", f"http://{address}/{page}", "--index", url]) == 2
            assert page in capsys.readouterr().err
