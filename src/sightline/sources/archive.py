"""A source: the pictures in a zip or tar file, with the texts that stand beside them."""

import stat
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from sightline.errors import SourceError
from sightline.sources.files import is_picture, is_skipped, suffix_of, unreadable, unreadable_item, valid
from sightline.sources.members import Member, members, small_contents
from sightline.sources.sidecars import LARGEST_BYTES, Sidecar, Sidecars, is_sidecar, read_sidecars
from sightline.text import printable
from sightline.types import Item, Value

_LIKELIEST = ("jpg", "jpeg", "webp", "png", "avif", "jpe", "tif", "tiff")  # of several with one name the picture
_MAPS = frozenset(
    "mask masks seg segmentation depth disparity normal normals alpha matte label labels instance instances edge edges "
    "canny pose sketch saliency flow".split()
)
_MOST_ARCHIVES = 2  # whose lists are kept for reading single members: 300 bytes a member


@dataclass(frozen=True, slots=True)
class Archive:
    """The pictures of a zip or tar file, in the order of the archive. `within` are the URIs that it lies under.

    Files of one name beside a picture, wherever in the archive, are what is known of it, as in WebDataset shards: .txt
    is its caption, .cls its label, the fields of .json are its fields. Of several pictures with one name the others,
    masks and depth maps, are left out: `image` (`jpg`, `seg.png`) says which is meant. `left_out` counts, by suffix,
    what the last walk to the end passed by. An archive that breaks off ends with an item that says so.
    """

    path: Path
    within: tuple[str, ...] = ()
    image: str | None = None
    left_out: Counter[str] = field(default_factory=Counter, compare=False)

    @property
    def root(self) -> str:
        """The URI of the archive."""
        return self.path.as_uri()

    def __iter__(self) -> Iterator[Item]:
        """The items; nothing is unpacked to the disk, so a member's name cannot lead anywhere."""
        root, base = self.root, [*self.within, self.root]
        left_out = Counter[str]()
        try:
            for sample in _samples(str(self.path)):
                yield from self._items(sample, base, left_out)
        except SourceError as error:
            yield unreadable_item(root, error, name=valid(self.path.name), folders=[*self.within])
        self.left_out.clear()
        self.left_out.update(left_out)

    def _items(self, group: list[Member], base: list[str], left_out: Counter[str]) -> Iterator[Item]:
        """The pictures among files of one key, with what the others tell of them."""
        group = [member for member in group if not any(map(_is_hidden, member.name.split("/")))]
        texts = {_base(member.name): member for member in group if is_sidecar(member.name)}
        beside, used = Sidecars(texts), set[str]()
        pictures = _pictures(group, {_stem(name) for name in texts}, self.image)
        for member in pictures:
            of_the_key = [name for name in texts if _stem(name) == _base(_key(member))]
            names = dict.fromkeys([*beside.of(_base(member.name)), *of_the_key])
            used |= names.keys()
            yield _item(member, [texts[name] for name in names], self.root, base)
        for member in group:
            if member not in pictures and _base(member.name) not in used:
                left_out[
                    f".{_ending(member)}" if is_picture(member.name) else suffix_of(member.name) or "no suffix"
                ] += 1


def open_archive(path: Path, image: str | None = None) -> Archive:
    """The pictures of an archive; `SourceError` if it is none or cannot be read."""
    next(members(str(path)), None)
    return Archive(path, image=image)


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


def _samples(path: str) -> Iterator[list[Member]]:
    """The files of each key. Of a tar file whose keys come again further down, all are gathered first."""
    if path.lower().endswith(".zip") or not _is_scattered(path):
        yield from (list(group) for _, group in groupby(members(path), _key))
        return
    samples, broken = defaultdict[str, list[Member]](list), None
    texts = small_contents(path, is_sidecar, LARGEST_BYTES)  # a compressed archive would be read anew for each
    try:
        for member in members(path):
            if (text := texts.get(member.name)) is not None:
                member = replace(member, read=partial(bytes, text))
            samples[_key(member)].append(member)
    except SourceError as error:
        broken = error
    yield from samples.values()
    if broken:
        raise broken


def _is_scattered(path: str) -> bool:
    seen = set[int]()
    with suppress(SourceError):  # which comes up again where the members are read
        for key, _ in groupby(members(path), _key):
            if hash(key) in seen:
                return True
            seen.add(hash(key))
    return False


def _pictures(group: list[Member], stems: set[str], image: str | None) -> list[Member]:
    """Which of the files of one key are pictures to index, and not masks and the like beside one."""
    pictures = [member for member in group if is_picture(member.name)]
    if image is not None:
        return [member for member in pictures if _ending(member) == image.lower().lstrip(".")]
    mains = [member for member in pictures if "." not in _ending(member)]
    is_sample = any(_base(_key(member)) in stems for member in group)
    if not mains:
        return pictures
    best = min(mains, key=lambda member: _LIKELIEST.index(end) if (end := _ending(member)) in _LIKELIEST else 9)
    kept = list[Member]()
    for member in pictures:
        is_apart = _stem(_base(member.name)) in stems and member not in mains
        is_map = not _MAPS.isdisjoint(_ending(member).split(".")[:-1])
        if is_apart or member is best or not (is_sample or is_map):
            kept.append(member)
    return kept


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


def _ending(member: Member) -> str:
    """All that follows the key: `seg.png`."""
    return _base(member.name).partition(".")[2].lower()


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _is_hidden(part: str) -> bool:
    return is_skipped(part) and part not in (".", "..")


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _quoted(name: str) -> str:
    return quote_from_bytes(name.encode("utf-8", "surrogateescape"))
