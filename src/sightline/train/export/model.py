"""What an export starts from: a torch model that gives vectors and can be written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sightline.train.config import Precision
from sightline.types import Vector

Write = Callable[[Path, Precision, Sequence[Path]], None]


@dataclass(frozen=True, slots=True)
class Original:
    """A torch model: the vector of one upright picture or of one text, and `write(folder, precision, calibration)`.

    `write` may take the model apart: it is to be called after the vectors were taken.
    """

    encode_image: Callable[[Image.Image], Vector]
    encode_text: Callable[[str], Vector] | None
    """None for a model of pictures alone."""
    write: Write
