"""TIFF files: the page that is the picture, and the layouts of samples that Pillow misreads or refuses.

TIFF 6.0 (Aldus 1992), Adobe's Technical Notes 1 and 3 on predictors; BigTIFF.
"""

import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from sightline.errors import ImageError
from sightline.images.deep import Samples

_MOST_PAGES = 64
_LOSSLESS = (1, 5, 8, 32773, 32946, 34925, 50000)  # none, LZW, Deflate, PackBits, Deflate of old, LZMA, Zstandard
_KINDS = {1: "u", 2: "i", 3: "f"}  # of the tag SampleFormat, as NumPy names them
_CHANNELS = {0: 1, 1: 1, 2: 3, 5: 4}  # of the tag PhotometricInterpretation: white is zero, black is zero, RGB, CMYK


class SampleLayout(NamedTuple):
    """How the samples of a page lie in the file."""

    width: int
    height: int
    samples: int
    colours: int
    dtype: np.dtype[Any]
    is_planar: bool
    is_inverted: bool
    has_alpha: bool


class TiffPicture(TiffImageFile):
    """A TIFF file at the page that is its picture; `layout` is set where Pillow cannot be asked for the pixels."""

    layout: SampleLayout | None = None

    def _setup(self) -> None:
        self.layout = _layout_of(self.tag_v2)
        if self.layout is None:
            super()._setup()
            return
        width, height = self.layout.width, self.layout.height
        self._size = (height, width) if self.tag_v2.get(274) in (5, 6, 7, 8) else (width, height)
        self._mode, self.tile = "L", []
        if 34675 in self.tag_v2:
            self.info["icc_profile"] = self.tag_v2[34675]

    def find_picture(self) -> None:
        """Go to the largest page where the first is a thumbnail: marked as one, or of less than half the pixels."""
        if 50706 in self.tag_v2 or (330 in self.tag_v2 and self.tag_v2.get(254, 0) == 1):  # DNG, and NEF and its like
            raise ImageError("a RAW photograph, of which this would be the thumbnail: expected a picture; export it")
        pages = list[tuple[int, int]]()
        with suppress(EOFError, SyntaxError, TypeError, ValueError, KeyError, OSError):  # of a page behind the first
            for page in range(_MOST_PAGES):
                self.seek(page)
                kind = self.tag_v2.get(254, 0)
                is_reduced = isinstance(kind, int) and bool(kind & 0b101)  # a reduced picture, or a mask
                pages.append((0 if is_reduced else self.width * self.height, -page))
        pixels, best = max(pages)
        self.seek(-best if pages[0][0] * 2 < pixels else 0)

    @property
    def bytes_a_pixel(self) -> float:
        """The memory that decoding takes: the samples or Pillow's picture, and the largest strip."""
        stored = sum(_tuple(self.tag_v2.get(258, 1))) / 8
        rows = self.tag_v2.get(323, self.tag_v2.get(278, self.height))
        strip = stored * min(1.0, rows / max(1, self.height)) if self.tag_v2.get(259, 1) != 1 else 0.0
        return (self.layout.samples * self.layout.dtype.itemsize if self.layout else 4.0) + strip

    def samples(self, layout: SampleLayout) -> Samples:
        """The samples of a page with a layout of its own."""
        count = layout.samples if layout.is_planar else 1
        planes = [self._plane(layout, position, count) for position in range(count)]
        across = 1 if layout.is_planar else layout.samples
        tile = self.tag_v2.get(322, layout.width)
        predictor = self.tag_v2.get(317, 1)
        channels = layout.colours + layout.has_alpha

        def rows(top: int, bottom: int) -> NDArray[Any]:
            found = []
            for plane in planes:
                stored = np.asarray(plane.crop((0, top, plane.width, bottom)))
                step = tile * across * layout.dtype.itemsize
                tiles = [stored[:, start : start + step] for start in range(0, stored.shape[1], step)]
                found.append(np.concatenate([_values(part, layout.dtype, across, predictor) for part in tiles], axis=1))
            return np.concatenate(found, axis=-1)[:, : layout.width, :channels]

        return Samples((layout.width, layout.height), rows, layout.has_alpha, layout.is_inverted)

    def _plane(self, layout: SampleLayout, position: int, count: int) -> Image:
        """A plane's bytes as a grey picture, decompressed by libtiff: the same file with other tags at its end."""
        tags = self.tag_v2
        is_tiled = 324 in tags
        across = layout.dtype.itemsize * (1 if layout.is_planar else layout.samples)
        width = -(-layout.width // tags[322]) * tags[322] if is_tiled else layout.width
        entries = {256: [width * across], 257: [layout.height], 258: [8], 259: [tags.get(259, 1)], 262: [1], 277: [1]}
        for tag in (324, 325) if is_tiled else (273, 279):
            parts = _tuple(tags[tag])
            share = len(parts) // count
            entries[tag] = list(parts[position * share : (position + 1) * share])
        if is_tiled:
            entries |= {322: [tags[322] * across], 323: [tags[323]]}
        else:
            entries[278] = [min(layout.height, tags.get(278, layout.height))]
        data = cast(BytesIO, self.fp).getvalue()
        with TiffImageFile(BytesIO(_with_directory(data, "<" if tags.prefix == b"II" else ">", entries))) as file:
            file.load()
            return file.copy()


def _with_directory(data: bytes, order: str, entries: Mapping[int, Sequence[int]]) -> bytes:
    """The file with another directory, of 32-bit numbers, at its end; offsets in it stay right."""
    at = len(data) + len(data) % 2
    behind = at + 2 + 12 * len(entries) + 4  # where the lists lie that an entry has no room for
    directory, lists = [struct.pack(f"{order}H", len(entries))], b""
    for tag, values in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        value = packed if len(values) == 1 else struct.pack(f"{order}I", behind + len(lists))
        lists += packed if len(values) > 1 else b""
        directory.append(struct.pack(f"{order}HHI", tag, 4, len(values)) + value)
    header = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, at)
    return b"".join([header, data[8:], bytes(at - len(data)), *directory, bytes(4), lists])


def _layout_of(tags: ImageFileDirectory_v2) -> SampleLayout | None:
    """The layout of a page that Pillow reads wrongly, or not at all; None where it reads it rightly, or nobody can."""
    photometric, count = tags.get(262, 0), tags.get(277, 1)
    bits, formats = set(_tuple(tags.get(258, 1))), set(_tuple(tags.get(339, 1)))
    colours = _CHANNELS.get(photometric, 0)
    is_planar = tags.get(284, 1) == 2 and count > 1
    if len(bits) > 1 or len(formats) > 1 or not 0 < colours <= count <= 64 or tags.get(259, 1) not in _LOSSLESS:
        return None
    (bit,), (kind,) = bits, formats
    is_plain = bit == 8 or (bit == 16 and photometric != 0)
    if is_plain and kind == 1 and not is_planar and (count == 1 or photometric != 0):
        return None
    if bit not in ((16, 32, 64) if kind == 3 else (8, 16, 32)) or kind not in _KINDS or tags.get(266, 1) != 1:
        return None
    extra = _tuple(tags.get(338, ()))
    has_alpha = bool(extra and extra[0] in (1, 2)) or (photometric == 2 and count == 4 and not extra)
    dtype = np.dtype(f"{'<' if tags.prefix == b'II' else '>'}{_KINDS[kind]}{bit // 8}")
    return SampleLayout(tags[256], tags[257], count, colours, dtype, is_planar, photometric == 0, has_alpha)


def _values(stored: NDArray[np.uint8], dtype: np.dtype[Any], across: int, predictor: int) -> NDArray[Any]:
    """(rows, bytes) of a strip or tile -> (rows, width, across), the differences that a predictor left undone."""
    rows, size = len(stored), dtype.itemsize
    if predictor == 3:  # bytes of equal weight side by side, the heaviest first, and then the differences
        summed = np.cumsum(stored.reshape(rows, -1, across), axis=1, dtype=np.uint8)
        planes = summed.reshape(rows, size, -1).swapaxes(1, 2)
        return np.ascontiguousarray(planes).view(dtype.newbyteorder(">")).reshape(rows, -1, across)
    values = np.ascontiguousarray(stored).view(dtype).reshape(rows, -1, across)
    return np.cumsum(values, axis=1, dtype=dtype.newbyteorder("=")) if predictor == 2 else values


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
