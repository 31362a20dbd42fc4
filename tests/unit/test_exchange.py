"""What is written to files comes back as it was; what others wrote can be read."""

import json
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from sightline.cli.main import main
from sightline.errors import IndexMismatch, SourceError, UsageError
from sightline.exchange import files
from sightline.exchange.files import load, open_saved, write_folder, write_parquet
from sightline.index import Index
from sightline.stores.base import Store, open_store
from sightline.types import Record, Value, record_id

parquet = pytest.importorskip("pyarrow.parquet", reason="needs the parquet extra")
WRITERS = {"a.parquet": write_parquet, "folder": write_folder}
every_kind = pytest.mark.parametrize("name", WRITERS)


def records(count: int, dim: int = 8) -> list[Record]:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(count, dim)).astype(np.float16).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = []
    for number, vector in enumerate(vectors):
        payload: dict[str, Value] = {
            "caption": f'Bild {number}: „ä\n"',
            "id": number,
            "price": number / 4,
            "good": number % 2 == 0,
            "tags": ["x", str(number)],
            "taken": datetime(2024, 1, 1, 12, 30, 5, number, tzinfo=UTC),
            "mixed": number if number % 3 else f"text {number}",
        }
        if number % 5 == 0:
            del payload["caption"]
        uri = f"file:///{number}.jpg"
        found.append(Record(record_id(uri), uri, vector, payload))
    return found


def store_of(url: str, given: list[Record]) -> Store:
    store = open_store(url, dim=given[0].vector.shape[0])
    store.write_notes("index", {"index": {"encoder": "pixels", "load": "pixels", "fingerprint": "f"}})
    store.upsert(given)
    return store


@every_kind
def test_what_is_written_comes_back_as_it_was(tmp_path: Path, name: str) -> None:
    given = records(50)
    store = store_of(str(tmp_path / "a.index"), given)
    assert WRITERS[name](store, tmp_path / name) == 50
    assert WRITERS[name](store, tmp_path / name) == 50  # over what it wrote before
    store.close()
    assert load(tmp_path / name, str(tmp_path / "b.index")) == 50
    back = open_store(str(tmp_path / "b.index"))
    assert back.notes("index")["index"]["encoder"] == "pixels"
    for record in back.fetch([record.id for record in given]):
        was = next(one for one in given if one.id == record.id)
        assert (record.uri, record.payload) == (was.uri, was.payload)
        assert {field: type(value) for field, value in record.payload.items()} == {
            field: type(value) for field, value in was.payload.items()
        }
        assert float(record.vector @ was.vector) > 0.9999
    back.close()


def test_the_files_are_plain_ones(tmp_path: Path) -> None:
    store = store_of("memory:plain", records(50))
    write_parquet(store, tmp_path / "a.parquet")
    write_folder(store, tmp_path / "folder")
    store.close()
    table = parquet.read_table(tmp_path / "a.parquet")
    assert table.num_rows == 50
    assert str(table.schema.field("vector").type).startswith("fixed_size_list<")
    assert str(table.schema.field("payload.price").type) == "double"
    vectors = np.load(tmp_path / "folder" / "vectors.npy")
    assert vectors.shape == (50, 8)
    lines = (tmp_path / "folder" / "records.jsonl").read_text("utf-8").splitlines()
    assert json.loads(lines[0]).keys() == {"id", "uri", "payload"}
    assert np.allclose(np.asarray(table["vector"].to_pylist()), vectors)


def clip_retrieval(folder: Path, given: list[Record]) -> Path:
    """The layout of `clip-retrieval inference`, in two parts."""
    import pyarrow

    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    for part in (0, 1):
        few = given[part::2]
        np.save(
            folder / "img_emb" / f"img_emb_{part}.npy", np.stack([record.vector for record in few]).astype(np.float16)
        )
        rows = [
            {
                "image_path": f"{n:05}",
                "caption": record.payload.get("caption"),
                "url": f"http://a.example/{record.uri[8:]}",
            }
            for n, record in enumerate(few)
        ]
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "metadata" / f"metadata_{part}.parquet")
    return folder


def test_clip_retrieval_can_be_read(tmp_path: Path) -> None:
    from sightline.encoders.base import load_encoder

    given = records(20, load_encoder("pixels").dim)
    folder = clip_retrieval(tmp_path / "emb", given)
    with pytest.raises(UsageError, match="does not say which model made its vectors"):
        load(folder, str(tmp_path / "a.index"))
    assert load(folder, str(tmp_path / "a.index"), model="pixels") == 20
    with Index(str(tmp_path / "a.index")) as index:
        record = index.record("http://a.example/7.jpg")
        assert float(record.vector @ given[7].vector) > 0.999
        assert record.payload["caption"] == given[7].payload["caption"]
        assert index.info()["model"] == "pixels"
        assert len(index.similar("http://a.example/7.jpg", k=3)) == 3
    np.save(folder / "img_emb" / "img_emb_1.npy", np.ones((3, 8), np.float16))
    with pytest.raises(SourceError, match=r"has 3 vectors, expected as many as records"):
        list(open_saved(folder).records())


def test_another_models_vectors_are_refused(tmp_path: Path) -> None:
    store = store_of("memory:other", records(5))
    write_parquet(store, tmp_path / "a.parquet")
    store.close()
    other = open_store(str(tmp_path / "b.index"), dim=8)
    other.write_notes("index", {"index": {"encoder": "mini"}})
    other.close()
    with pytest.raises(IndexMismatch, match="was built with 'mini', not 'pixels'"):
        load(tmp_path / "a.parquet", str(tmp_path / "b.index"))


def test_what_holds_no_vectors_is_said(tmp_path: Path) -> None:
    import pyarrow

    with pytest.raises(SourceError, match="has no vectors in a known format"):
        open_saved(tmp_path)
    parquet.write_table(pyarrow.table({"sku": [1]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="has the columns sku, expected a vector"):
        open_saved(tmp_path / "a.parquet")
    (tmp_path / "note.txt").write_text("mine")
    store = store_of("memory:mine", records(2))
    with pytest.raises(UsageError, match="exists already"):
        write_folder(store, tmp_path)
    store.close()


@every_kind
def test_memory_does_not_grow_with_the_records(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BATCH_RECORDS", 100)
    peaks = []
    for count in (500, 2500):
        store = store_of(str(tmp_path / f"{count}.index"), records(count, 64))
        tracemalloc.start()
        WRITERS[name](store, tmp_path / f"{count}-{name}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        store.close()
    assert peaks[1] < 2 * peaks[0]


def test_the_commands_write_and_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store_of(str(tmp_path / "a.index"), records(5)).close()
    assert main(["export-index", str(tmp_path / "a.parquet"), "--index", str(tmp_path / "a.index")]) == 0
    assert main(["import-index", str(tmp_path / "a.parquet"), "--index", str(tmp_path / "b.index")]) == 0
    assert "read 5 pictures" in capsys.readouterr().out


def test_a_table_that_cannot_be_written_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store_of(str(tmp_path / "a.index"), records(2)).close()
    assert main(["export-index", str(tmp_path / "a.csv"), "--index", str(tmp_path / "a.index")]) == 2
    assert "name a file that ends in .parquet, or a new folder" in capsys.readouterr().err
    assert not (tmp_path / "a.csv").exists()


def test_the_model_is_looked_for_as_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIGHTLINE_OFFLINE", "1")
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "cache"))
    folder = clip_retrieval(tmp_path / "emb", records(4))
    assert main(["import-index", str(folder), "--index", str(tmp_path / "a.index"), "--model", "clip-b32"]) == 2
    assert "offline" in capsys.readouterr().err


@every_kind
def test_where_nothing_can_be_written_is_said(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    store_of(str(tmp_path / "a.index"), records(2)).close()
    (tmp_path / "file").write_text("no folder")
    assert main(["export-index", str(tmp_path / "file" / name), "--index", str(tmp_path / "a.index")]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert main(["export-index", str(tmp_path / "new" / "deep" / name), "--index", str(tmp_path / "a.index")]) == 0


def test_imported_files_choose_no_model_of_their_own(tmp_path: Path) -> None:
    store = store_of("memory:theirs", records(3))
    write_folder(store, tmp_path / "folder")
    store.close()
    file = tmp_path / "folder" / "index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "load": "hf:somebody/model"}))
    with pytest.raises(UsageError, match="give --model hf:somebody/model"):
        load(tmp_path / "folder", str(tmp_path / "b.index"))
    assert not (tmp_path / "b.index").exists()
    assert load(tmp_path / "folder", str(tmp_path / "b.index"), model="hf:somebody/model") == 3


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("index.json", "{", "cannot be read"),
        ("index.json", "[" * 200_000, "cannot be read"),
        ("records.jsonl", '{"payload": {}}\n', "line 1 of"),
        ("records.jsonl", "[" * 200_000 + "\n", "line 1 of"),
        ("records.jsonl", "7\n", "line 1 of"),
    ],
)
def test_a_broken_file_is_named_and_no_traceback(tmp_path: Path, name: str, text: str, part: str) -> None:
    store = store_of("memory:broken", records(3))
    write_folder(store, tmp_path / "folder")
    store.close()
    (tmp_path / "folder" / name).write_text(text)
    with pytest.raises(SourceError, match=part):
        load(tmp_path / "folder", str(tmp_path / "b.index"))
