"""A file of vectors that a large model gave -> names of pictures, and what a student should give for each."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sightline.errors import TrainingError


@dataclass(frozen=True, slots=True)
class Teacher:
    """Names of pictures with the teacher's vectors of them, (n, dim), moved so that their mean is zero, of norm 1.

    The vectors of a CLIP share a large common part, which says nothing of any one picture: without it a student learns
    the differences, which are what a search ranks by.
    """

    names: tuple[str, ...]
    vectors: Tensor
    centre: Tensor

    def only(self, wanted: Collection[str]) -> "Teacher":
        """The part for these names, in the order of the file."""
        chosen = set(wanted)
        places = [n for n, name in enumerate(self.names) if name in chosen]
        return Teacher(tuple(self.names[n] for n in places), self.vectors[places], self.centre)


def read_teacher(path: Path, names: Path | None = None) -> Teacher:
    """The teacher's vectors from an .npz with `names` and `vectors`, or int8 `codes` times `scales`.

    `names` is a text file with one name a line for an .npz without them. Raises `TrainingError` for anything else.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        words = names.read_text(encoding="utf-8").splitlines() if names else [str(one) for one in arrays["names"]]
        vectors = arrays["vectors"] if "vectors" in arrays else arrays["codes"] * arrays["scales"][:, None]
    except KeyError as error:
        raise TrainingError(
            f"{path} has no array {error}: expected 'names' and 'vectors', or 'codes' and 'scales' with a file "
            "`teacher_names`; write it with numpy.savez"
        ) from error
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read ({error}): expected an .npz of vectors; check the path") from error
    return _checked(path, words, np.asarray(vectors, np.float32))


def _checked(path: Path, names: list[str], vectors: NDArray[np.float32]) -> Teacher:
    if vectors.ndim != 2 or len(vectors) != len(names) or not len(names):
        raise TrainingError(
            f"{path} has vectors of shape {vectors.shape} for {len(names):,} names: expected (names, dim); "
            "write one vector for each name"
        )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = [name for name, length in zip(names, lengths[:, 0], strict=True) if not 0 < length < np.inf]
    if bad:
        raise TrainingError(
            f"{path}: {len(bad):,} vectors are zero or no numbers, such as that of {bad[0]}: "
            "expected numbers; leave these pictures out"
        )
    unit = torch.from_numpy(vectors / lengths)
    centre = unit.mean(dim=0) if len(unit) > 1 else torch.zeros(unit.shape[1])
    return Teacher(tuple(names), functional.normalize(unit - centre, dim=-1), centre)
