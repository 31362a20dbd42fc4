"""Buckets and folders on web servers become items."""

from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.pictures import encoded, scene, write
from tests.serving import answering

from sightline.errors import ExtraMissing, SourceError
from sightline.index import Index
from sightline.sources.base import open_source, read_uri

NAMES = ["a.jpg", "sub/b ü.jpg", "sub/sub/c#1?.png", ".hidden/d.jpg", "notes.txt"]


@pytest.fixture
def bucket() -> Iterator[str]:
    fsspec = pytest.importorskip("fsspec", reason="needs the cloud extra")
    system = fsspec.filesystem("memory")
    for number, name in enumerate(NAMES):
        system.pipe(f"/photos/my set/{name}", encoded(scene(number), "JPEG"))
    yield "memory://photos/my set"
    system.rm("/photos", recursive=True)


def test_every_picture_of_a_bucket_is_offered_in_order(bucket: str) -> None:
    items = list(open_source(bucket))
    assert [item.payload["name"] for item in items] == ["a.jpg", "b ü.jpg", "c#1?.png"]
    assert [item.read() for item in items] == [encoded(scene(number), "JPEG") for number in range(3)]
    assert all(item.is_slow and read_uri(item.uri) == item.read() for item in items)
    root = open_source(bucket).root
    assert root == "memory://photos/my%20set"
    assert items[2].payload["folders"] == [root, f"{root}/sub", f"{root}/sub/sub"]


def test_a_bucket_is_brought_up_to_date(bucket: str, tmp_path: Path) -> None:
    import fsspec

    with Index(str(tmp_path / "a.index"), model="pixels") as index:
        assert index.add(bucket).encoded == 3
        assert index.add(bucket).unchanged == 3
        system = fsspec.filesystem("memory")
        system.rm("/photos/my set/a.jpg")
        system.pipe("/photos/my set/sub/b ü.jpg", encoded(scene(9), "JPEG"))
        summary = index.add(bucket)
        assert (summary.removed, summary.encoded, summary.unchanged) == (1, 1, 1)


def test_what_is_not_there_or_not_known_is_said(bucket: str) -> None:
    with pytest.raises(SourceError, match="memory://nowhere is not there"):
        open_source("memory://nowhere")
    with pytest.raises(SourceError, match="has a secret in its URL, expected none"):
        open_source("s3://bucket/photos?secret=abc")
    with pytest.raises(SourceError, match="nosuch://bucket is nothing known"):
        open_source("nosuch://bucket")


def test_a_package_that_is_missing_is_named() -> None:
    pytest.importorskip("fsspec", reason="needs the cloud extra")
    if find_spec("s3fs") is not None:
        pytest.skip("s3fs is here")
    with pytest.raises(ExtraMissing, match=r"pip install 'sightline\[cloud\]'"):
        open_source("s3://bucket/photos")


def test_s3_is_listed_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs", reason="needs the cloud extra")
    server_of = pytest.importorskip("moto.server", reason="needs moto").ThreadedMotoServer
    import boto3

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = server_of(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="photos")
        for number, name in enumerate(NAMES):
            client.put_object(Bucket="photos", Key=f"set/{name}", Body=encoded(scene(number), "JPEG"))
        url = f"s3://photos/set?endpoint_url={endpoint}"
        with Index(str(tmp_path / "a.index"), model="pixels") as index:
            assert index.add(url).encoded == 3
            assert index.add(url).unchanged == 3
            client.put_object(Bucket="photos", Key="set/a.jpg", Body=encoded(scene(9), "JPEG"))
            client.delete_object(Bucket="photos", Key="set/sub/b ü.jpg")
            summary = index.add(url)
            assert (summary.encoded, summary.removed, summary.unchanged) == (1, 1, 1)
            assert all(read_uri(record.uri) for record in index.store.scan())
        with pytest.raises(SourceError, match="is not there"):
            open_source(f"s3://nowhere/set?endpoint_url={endpoint}")
    finally:
        server.stop()


def test_a_listing_on_the_web_is_a_folder(tmp_path: Path) -> None:
    for number, name in enumerate(["a.jpg", "sub/b ü.jpg", "sub/sub/c#1.png", "notes.txt"]):
        write(tmp_path / "photos", name, encoded(scene(number), "JPEG"))
    handler = partial(_Quiet, directory=str(tmp_path / "photos"))
    with answering(handler) as address:
        url = f"http://{address}/"
        with Index(str(tmp_path / "a.index"), model="pixels") as index:
            assert index.add(url).encoded == 3
            assert index.add(url).unchanged == 3
            assert index.count({"folders": f"{url}sub/"}) == 2
            (tmp_path / "photos" / "a.jpg").unlink()
            assert index.add(url).removed == 1


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        return
