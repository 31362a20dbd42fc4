"""Tables as people write them by hand and as programs export them: each says the same."""

import logging
from pathlib import Path

import pytest

from sightline.errors import SourceError, UsageError
from sightline.sources.rows import open_rows

DOGS = [{"image": "a.jpg", "caption": "hello, world"}, {"image": "b.jpg", "caption": "a dog"}]


def read(path: Path, data: str | bytes, name: str = "t.csv", encoding: str | None = None) -> list[object]:
    file = path / name
    file.write_bytes(data.encode() if isinstance(data, str) else data)
    return list(open_rows(file, encoding).read())


@pytest.mark.parametrize(
    "text",
    [
        'image,caption\na.jpg,"hello, world"\nb.jpg,a dog\n',
        'image, caption\na.jpg, "hello, world"\nb.jpg, a dog\n',
        'sep=;\nimage;caption\na.jpg;hello, world\nb.jpg;"a dog"\n',
        '"sep=,"\r\nimage,caption\r\na.jpg,"hello, world"\r\nb.jpg,a dog\r\n',
        "# made by hand, 2024\n#\nimage;caption\na.jpg;hello, world\n# half way\nb.jpg;a dog\n",
        '#image\tcaption\na.jpg\t"hello, world"\nb.jpg\ta dog\n',
        "image|caption\ra.jpg|hello, world\rb.jpg|a dog\r",
        '\n\nimage,caption,,\na.jpg,"hello, world",,\nb.jpg,a dog,,\n'.replace(",,\n", "\n"),
        "image,caption\na.jpg,hello, world\nb.jpg,a dog\n",
        'image,caption\na.jpg,"hello, world",,,\nb.jpg,a dog,\n',
        "a.jpg#0\thello, world\nb.jpg#0\ta dog\n",
    ],
)
def test_the_dialect_is_decided_from_many_rows(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) == DOGS


@pytest.mark.parametrize(
    "urls",
    [
        ["http://h/a.jpg?x=1,2", "http://h/b.jpg"],
        ["http://h/a,b.jpg", "http://h/c,d.jpg", "http://h/e,f.jpg"],
        ["http://h/a;b|c,d.jpg", "http://h/b.jpg", "http://h/c.jpg"],
    ],
)
@pytest.mark.parametrize("header", ["", "url\n"])
def test_commas_in_a_list_of_urls_are_part_of_them(tmp_path: Path, urls: list[str], header: str) -> None:
    assert read(tmp_path, header + "\n".join(urls), "urls.txt") == [{"url": url} for url in urls]


def test_a_commented_out_url_is_left_out(tmp_path: Path) -> None:
    text = "# pictures\n#http://h/a.jpg\nhttp://h/b.jpg\n#http://h/c.jpg\n"
    assert read(tmp_path, text, "urls.txt") == [{"url": "http://h/b.jpg"}]


@pytest.mark.parametrize("delimiter", ["\t", ",", ";"])
@pytest.mark.parametrize("words", ['"Stop" sign', '5" disk', '"an open quote', 'a "quoted" word', '"'])
def test_a_stray_quote_swallows_nothing(tmp_path: Path, delimiter: str, words: str) -> None:
    rows = [("a.jpg", words), *[(f"{number}.jpg", f"picture {number}") for number in range(300)], ("z.jpg", words)]
    text = "".join(f"{delimiter.join(row)}\n" for row in [("image", "caption"), *rows])
    assert read(tmp_path, text) == [{"image": image, "caption": caption} for image, caption in rows]


def test_a_stray_quote_beside_quoted_cells_with_several_lines_swallows_nothing(tmp_path: Path) -> None:
    text = 'image,caption\na.jpg,"two\nlines, here"\nb.jpg,"open\nc.jpg,"all ""right"""\nd.jpg,end\n'
    captions = {row["image"]: row["caption"] for row in read(tmp_path, text) if isinstance(row, dict)}
    assert captions == {"a.jpg": "two\nlines, here", "b.jpg": '"open', "c.jpg": 'all "right"', "d.jpg": "end"}


def test_a_surplus_cell_is_an_error_with_the_rows_number_and_the_rest_goes_on(tmp_path: Path) -> None:
    text = "id,image,name\n1,a.jpg,Puma Men Black, Grey and Red Shoes\n2,b.jpg,Plain\n"
    error, plain = read(tmp_path, text)
    assert "row 1 has 4 cells, expected 3 (id, image, name)" in str(error)
    assert plain == {"id": "2", "image": "b.jpg", "name": "Plain"}


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("gb18030", "一只狗在雪地里奔跑"),
        ("cp1251", "собака бежит по снегу"),
        ("shift_jis", "犬が雪の中を走る"),
        ("euc_kr", "눈 속을 달리는 개"),
        ("big5", "一隻狗在雪地裡奔跑"),
        ("koi8-r", "собака бежит по снегу"),
        ("cp1253", "ένας σκύλος τρέχει στο χιόνι"),
        ("cp1250", "złota łódka płynie, mała żółta piłka"),
        ("mac_roman", "un café crème à côté"),
    ],
)
def test_other_encodings_are_refused_until_they_are_named(tmp_path: Path, encoding: str, words: str) -> None:
    data = f"image,caption\na.jpg,{words.replace(',', '')}\n".encode(encoding)
    with pytest.raises(SourceError, match="name its encoding with --encoding"):
        read(tmp_path, data)
    assert read(tmp_path, data, encoding=encoding) == [{"image": "a.jpg", "caption": words.replace(",", "")}]


@pytest.mark.parametrize(
    "words", ["un café crème, déjà créée", "größere Füße", "¿Qué niño?", "l’œuvre — « été »", "20 €"]
)
def test_windows_1252_is_read_and_said(tmp_path: Path, words: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path, f"image;caption\na.jpg;{words}\n".encode("cp1252"))[0] == {
            "image": "a.jpg",
            "caption": words,
        }
    assert "was read as Windows-1252" in caplog.text


def test_a_wrong_encoding_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'klingon' is no encoding"):
        read(tmp_path, "image\n", encoding="klingon")
    with pytest.raises(SourceError, match="is not in ascii"):
        read(tmp_path, "image\nä.jpg\n", encoding="ascii")


@pytest.mark.parametrize(
    "document",
    [
        '{"images": [{"id": 7, "file_name": "a.jpg"}], "annotations": [{"image_id": 7, "caption": "one"}, '
        '{"image_id": 7, "caption": "two"}]}',
        '{"images": [{"filename": "a.jpg", "sentences": [{"raw": "one"}, {"raw": "two"}]}], "dataset": "flickr8k"}',
        '[{"image": "a.jpg", "caption": ["one", "two"]}]',
        '{"a.jpg": ["one", "two"]}',
    ],
)
def test_json_captions_are_known_by_their_shape(tmp_path: Path, document: str) -> None:
    (row,) = read(tmp_path, document, "captions.json")
    assert isinstance(row, dict)
    assert row["caption"] == ["one", "two"]
    assert open_rows(tmp_path / "captions.json").column(("image", "file_name", "filename")) is not None


@pytest.mark.parametrize("document", ['{"a": 1}', "[" * 500_000, "3", "nothing"])
def test_other_json_is_refused(tmp_path: Path, document: str) -> None:
    with pytest.raises(SourceError, match=r"expected|is not JSON"):
        read(tmp_path, document, "captions.json")
