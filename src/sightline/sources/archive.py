"""A source: the pictures in a zip or tar file, with the texts that stand beside them."""

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from sightline.errors import SourceError
from sightline.sources.files import is_picture, is_skipped, unreadable, unreadable_item, valid
from sightline.sources.members import Member, members
from sightline.sources.sidecars import Sidecar, Sidecars, is_sidecar, read_sidecars
from sightline.text import printable
from sightline.types import Item, Value

_MOST_ARCHIVES = 2  # whose lists are kept for reading single members: 300 bytes a member


@dataclass(frozen=True, slots=True)
class Archive:
    """The pictures of a zip or tar file, in the order of the archive. `within` are the URIs that it lies under.

    Files of one name beside a picture are what is known of it, as in WebDataset shards: .txt is its caption, .cls its
    label, the fields of .json are its fields. An archive that breaks off ends with an item that says so.
    """

    path: Path
    within: tuple[str, ...] = ()

    @property
    def root(self) -> str:
        """The URI of the archive."""
        return self.path.as_uri()

    def __iter__(self) -> Iterator[Item]:
        """The items; nothing is unpacked to the disk, so a member's name cannot lead anywhere."""
        root, base = self.root, [*self.within, self.root]
        try:
            for _, group in groupby(members(str(self.path)), _key):
                yield from _items(list(group), root, base)
        except SourceError as error:
            yield unreadable_item(root, error, name=valid(self.path.name), folders=[*self.within])


def open_archive(path: Path) -> Archive:
    """The pictures of an archive; `SourceError` if it is none or cannot be read."""
    next(members(str(path)), None)
    return Archive(path)


def member_item(path: Path, fragment: str) -> Item:
    """One picture of an archive by what follows the # in its URI; `SourceError` if it is not there."""
    uri = f"{path.as_uri()}#{fragment}"
    try:
        status = path.stat()
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"{printable(str(path))} is not a file, expected an archive: check the path")
    name = unquote_to_bytes(fragment).decode("utf-8", "surrogateescape")
    found = _by_name(str(path), status.st_size, status.st_mtime_ns).get(name)
    if found is None:
        raise SourceError(f"{uri} is not there, expected a file in the archive: index the archive again")
    payload: dict[str, Value] = {"name": valid(_base(name)), "folders": [path.as_uri()]}
    return Item(uri, found.stamp, found.read, payload)


@lru_cache(_MOST_ARCHIVES)
def _by_name(path: str, size_bytes: int, modified_ns: int) -> dict[str, Member]:
    """The members of an archive of that size and time, as far as it is whole."""
    found = dict[str, Member]()
    try:
        for member in members(path):
            if is_picture(member.name):
                found[member.name] = member
    except SourceError:
        if not found:
            raise
    return found


def _items(group: list[Member], root: str, base: list[str]) -> Iterator[Item]:
    """The pictures among files of one key, with what the others tell of them."""
    texts = {_base(member.name): member for member in group if is_sidecar(member.name)}
    beside = Sidecars(texts)
    for member in group:
        is_hidden = any(is_skipped(part) and part not in (".", "..") for part in member.name.split("/"))
        if is_picture(member.name) and not is_hidden:
            of_the_key = [name for name in texts if name.rpartition(".")[0] == _base(_key(member))]
            names = dict.fromkeys([*beside.of(_base(member.name)), *of_the_key])
            yield _item(member, [texts[name] for name in names], root, base)


def _item(member: Member, texts: list[Member], root: str, base: list[str]) -> Item:
    *parents, name = member.name.split("/")
    folders = [f"{root}#{_quoted('/'.join(parents[: depth + 1]))}/" for depth in range(len(parents))]
    beside = read_sidecars(Sidecar(_base(text.name), text.stamp, text.size_bytes, text.read) for text in texts)
    payload: dict[str, Value] = {
        "name": valid(name),
        "folders": [*base, *folders],
        "size_bytes": member.size_bytes,
    }
    stamp = "-".join([member.stamp, *(text.stamp for text in texts)])
    uri = f"{root}#{_quoted(member.name)}"
    return Item(uri, stamp, member.read, beside.payload | payload, fallback=beside.fallback)


def _key(member: Member) -> str:
    """What the files of one WebDataset sample share: the name up to the first dot."""
    parent, slash, name = member.name.rpartition("/")
    return f"{parent}{slash}{name.split('.')[0]}"


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _quoted(name: str) -> str:
    return quote_from_bytes(name.encode("utf-8", "surrogateescape"))
