"""Choose the threshold of duplicates for a model: copy some of an index's own pictures, and see how alike they are."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from sightline.encoders.base import Encoder
from sightline.errors import SightlineError, UsageError
from sightline.images.read import read
from sightline.sources.base import read_here
from sightline.stores.base import Store
from sightline.types import Vector, chunks

_WRONG = 0.001  # of the pictures, so many may have a different one that reaches the threshold
_OTHERS = 5_000  # pictures whose nearest other one is looked at
_MOST_CHECKED = 500  # pairs of those that are compared pixel by pixel
_AT_ONCE = 128
_SIDE = 32  # pixels of the grey pictures that tell whether two different files show the very same thing
_SAME_PIXELS = 0.97  # their correlation from which they do
_LEAST = 8
_READ_SIDE = 512  # pictures are decoded down to twice this: half of that is still more than models look at


def _reencoded(image: Image.Image) -> Image.Image:
    data = BytesIO()
    image.save(data, "JPEG", quality=60)
    return Image.open(data).convert("RGB")


def _half(image: Image.Image) -> Image.Image:
    return image.resize((max(1, image.width // 2), max(1, image.height // 2)), Image.Resampling.LANCZOS)


def _cropped(image: Image.Image) -> Image.Image:
    """Without a twentieth at each side: nine tenths of the width remain."""
    across, down = image.width // 20, image.height // 20
    return image.crop((across, down, image.width - across, image.height - down))


def _brighter(image: Image.Image) -> Image.Image:
    return ImageEnhance.Color(ImageEnhance.Brightness(image).enhance(1.2)).enhance(1.2)


COPIES: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "re-encoded": _reencoded,
    "half the size": _half,
    "cropped": _cropped,
    "mirrored": ImageOps.mirror,
    "brighter": _brighter,
}
"""Ways in which copies come about. The threshold is chosen on the first two; the others tell what else it finds."""

_CHOSEN_ON = ("re-encoded", "half the size")


@dataclass(frozen=True, slots=True)
class Copies:
    """What was measured on `sample` pictures.

    `found` is, by kind of copy, the share that reaches the threshold. Of `others` pictures, `others_reaching` have a
    different picture that does; `same_pixels` more have one that shows the very same, pixel by pixel. `precision` is
    the share of copies among the pairs that reach it, if every picture had one copy, re-encoded or resized.
    """

    sample: int
    threshold: float
    precision: float
    found: Mapping[str, float]
    others: int
    others_reaching: int
    same_pixels: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def measure(
    store: Store, encoder: Encoder, *, sample: int = 100, threshold: float | None = None, cache: Path | None = None
) -> Copies:
    """Copy some of the index's own pictures, and see how near the copies come, and how near different pictures.

    Without a threshold the lowest one is chosen that at most one of 1,000 pictures reaches with a different one, or
    halfway from there to the least alike copy. `cache` keeps pictures of the web. Raises `UsageError` where fewer than
    8 pictures can be read.
    """
    if sample < _LEAST:
        raise UsageError(f"the sample is {sample}, expected at least {_LEAST} pictures: 100 take seconds")
    taken = list(islice(_copied(store, encoder, cache), sample))
    if len(taken) < _LEAST:
        raise UsageError(
            f"only {len(taken)} of the index's pictures can be read, expected at least {_LEAST}: check that "
            "their files exist, or give a threshold"
        )
    scores = dict(zip(COPIES, np.stack(taken).T, strict=True))  # n of (kinds,) -> (kinds, n)
    right = np.concatenate([scores[name] for name in _CHOSEN_ON])
    others = _nearest_others(store, float(right.min()), cache)
    apart = others[~np.isnan(others)]
    threshold = _threshold(right, apart) if threshold is None else threshold
    copies, wrong = float((right >= threshold).mean()), float((apart >= threshold).sum() / max(len(apart), 1))
    return Copies(
        sample=len(taken),
        threshold=round(threshold, 4),
        precision=copies / max(copies + wrong, 1e-9),
        found={name: float((values >= threshold).mean()) for name, values in scores.items()},
        others=len(apart),
        others_reaching=int((apart >= threshold).sum()),
        same_pixels=int(np.isnan(others).sum()),
    )


def _copied(store: Store, encoder: Encoder, cache: Path | None) -> Iterator[Vector]:
    """The cosine of each kind of copy to its original, (kinds,), for pictures that are here; one at a time.

    They come in order of id, a hash, and so at random.
    """
    for record in store.scan():
        image = _read(record.uri, cache)
        if image is not None:
            pixels = np.stack([encoder.preprocess(copy(image)) for copy in COPIES.values()])
            vectors = encoder.encode_images(pixels)  # (kinds, 3, h, w) -> (kinds, dim)
            yield np.asarray(vectors @ record.vector, np.float32)


def _nearest_others(store: Store, above: float, cache: Path | None) -> NDArray[np.float32]:
    """The cosine of pictures to the nearest other one: (n,), NaN where that shows the very same, if it is above."""
    nearest, checked = list[float](), 0
    for records in chunks(islice(store.scan(), _OTHERS), _AT_ONCE):
        for record, hits in zip(records, store.search(np.stack([r.vector for r in records]), 2), strict=True):
            other = next((hit for hit in hits if hit.id != record.id), None)
            if other is not None:
                is_worth_a_look = other.score >= above and checked < _MOST_CHECKED
                checked += is_worth_a_look
                is_same = is_worth_a_look and _shows_the_same(record.uri, other.uri, cache)
                nearest.append(np.nan if is_same else other.score)
    return np.array(nearest, np.float32)


def _shows_the_same(one_uri: str, other_uri: str, cache: Path | None) -> bool:
    one, other = _read(one_uri, cache), _read(other_uri, cache)
    return one is not None and other is not None and float(_grey(one) @ _grey(other)) >= _SAME_PIXELS


def _read(uri: str, cache: Path | None) -> Image.Image | None:
    try:
        return read(read_here(uri, cache), image_size=_READ_SIDE)
    except (OSError, ValueError, SightlineError):
        return None


def _grey(image: Image.Image) -> Vector:
    """A small grey picture with mean 0 and norm 1: the product of two is their correlation."""
    grey = np.asarray(image.convert("L").resize((_SIDE, _SIDE)), np.float32).ravel()
    grey = grey - grey.mean()
    return np.asarray(grey / max(float(np.linalg.norm(grey)), 1e-6), np.float32)


def _threshold(right: Vector, apart: Vector) -> float:
    """Just above what one of 1,000 different pictures reaches; halfway to the copies where they lie higher."""
    highest = -np.sort(-apart)
    least = float(highest[int(_WRONG * len(highest))]) + 1e-4 if len(highest) else 0.0
    return (least + float(right.min())) / 2 if right.min() > least else least
