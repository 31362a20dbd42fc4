"""What a model takes on the disk, in memory, and in time for one text."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sightline.encoders.base import Encoder
from sightline.errors import TextNotSupported

_TIMED_TEXTS = 50
_STATM = Path("/proc/self/statm")  # Linux: pages in all, pages resident, ...
_PAGE_BYTES = 4096


def size_bytes(encoder: Encoder) -> int | None:
    """The files of the model; None for one that has no folder."""
    folder = getattr(encoder, "folder", None)
    if not isinstance(folder, Path):
        return None
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def memory_bytes(encoder: Encoder) -> int | None:
    """How much the process grows by loading both towers and running them once; None where the system does not say.

    To be called before anything else is done with the encoder: what is loaded already does not show.
    """
    before = _resident_bytes()
    blank = encoder.preprocess(Image.new("RGB", (encoder.image_size, encoder.image_size)))
    encoder.encode_images(np.stack([blank, blank]))  # two: a batch, as indexing makes them
    with contextlib.suppress(TextNotSupported):
        encoder.encode_texts(["a picture"])
    after = _resident_bytes()
    return None if before is None or after is None else max(0, after - before)


def ms_per_text(encoder: Encoder, texts: Sequence[str]) -> float:
    """The median time of one text, in milliseconds, the first left out."""
    spent = []
    for text in list(texts[:_TIMED_TEXTS]) or [""]:
        began = time.perf_counter()
        encoder.encode_texts([text])
        spent.append((time.perf_counter() - began) * 1e3)
    return float(np.median(spent[1:] or spent))


def _resident_bytes() -> int | None:
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return None
