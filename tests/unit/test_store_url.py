"""A server's URL: its parts, its key, and what messages show of it."""

from pathlib import Path

import pytest

from sightline.errors import UsageError
from sightline.stores.base import open_store
from sightline.stores.url import Option, StoreUrl, parse_address

OPTIONS: dict[str, Option] = {
    "shards": 1,
    "replicas": 1,
    "tls": False,
    "grpc": False,
    "ordering": ("weak", "strong"),
    "port": int,
}


def test_every_part_of_a_url_is_found() -> None:
    address = parse_address("qdrant://me:s%2Fcret@host:6333/pictures?shards=2&tls=true", OPTIONS)
    assert (address.scheme, address.host, address.port, address.name) == ("qdrant", "host", 6333, "pictures")
    assert (address.user, address.key) == ("me", "s/cret")
    assert address.options["shards"] == 2
    assert address.options["replicas"] == 1
    assert address.options["tls"]
    assert not address.options["grpc"]
    assert (address.options["ordering"], address.options["port"]) == ("weak", None)


def test_the_key_stays_out_of_every_text() -> None:
    address = parse_address("qdrant://:secret@[::1]:6333/pictures", {})
    assert address.text == "qdrant://:***@[::1]:6333/pictures"
    assert "secret" not in repr(address)
    assert str(StoreUrl("qdrant://:secret@host/a")) == "qdrant://:***@host/a"
    assert str(StoreUrl("postgresql://me:p@ss@host/a")) == "postgresql://me:***@host/a"
    assert str(StoreUrl("postgresql://me@host/a")) == "postgresql://me@host/a"
    assert str(StoreUrl("photos@home.index")) == "photos@home.index"
    with pytest.raises(UsageError) as caught:
        open_store("nosuch://:secret@host/a")
    assert "secret" not in str(caught.value)


def test_the_key_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\nsecond line\n")
    assert parse_address(f"qdrant://host/a?key_file={tmp_path / 'key'}", {}).key == "secret"
    with pytest.raises(UsageError, match="one line"):
        parse_address(f"qdrant://host/a?key_file={tmp_path / 'nothing'}", {})


def test_a_key_from_elsewhere_fills_a_url_without_one() -> None:
    assert StoreUrl("qdrant://host/a").with_key("k/1") == StoreUrl("qdrant://:k%2F1@host/a")
    assert StoreUrl("qdrant://:own@host/a").with_key("other") == StoreUrl("qdrant://:own@host/a")
    assert StoreUrl("postgresql://host/a").with_key("other") == StoreUrl("postgresql://host/a")
    assert StoreUrl("photos.index").with_key("other") == StoreUrl("photos.index")
    assert StoreUrl("qdrant://host/a").with_key(None) == StoreUrl("qdrant://host/a")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("qdrant://host", "names no index"),
        ("qdrant://host:no/a", "not a valid URL"),
        ("qdrant://host/a?sahrds=2", "'sahrds', expected key_file, shards"),
    ],
)
def test_what_is_no_address_is_refused(url: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        parse_address(url, {"shards": 1})


@pytest.mark.parametrize("option", ["shards=two", "tls=perhaps", "ordering=best", "port=x"])
def test_options_of_the_wrong_kind_are_refused(option: str) -> None:
    with pytest.raises(UsageError, match=option):
        parse_address(f"qdrant://host/a?{option}", OPTIONS)
