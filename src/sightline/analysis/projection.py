"""Vectors turned into places on a plane, so that pictures that are alike lie near each other."""

from importlib import import_module
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from sightline.errors import ExtraMissing, UsageError
from sightline.types import Vectors

METHODS = ("auto", "pca", "umap")
_NEIGHBOURS = 15


def project(vectors: Vectors, method: str = "auto") -> tuple[NDArray[np.float32], str]:
    """(n, dim) -> (n, 2) in 0 to 1, and how: by UMAP where it is installed, else by principal components.

    UMAP (McInnes et al. 2018, arXiv:1802.03426) keeps neighbours together; PCA keeps large distances, and is exact and
    quick. Raises `ExtraMissing` where UMAP was asked for and is not there.
    """
    if method not in METHODS:
        raise UsageError(f"the method is {method!r}, expected one of {', '.join(METHODS)}")
    is_here = find_spec("umap") is not None
    if method == "umap" and not is_here:
        raise ExtraMissing("umap-learn is not installed, expected it for --method umap: pip install umap-learn")
    if method == "pca" or not is_here or len(vectors) <= _NEIGHBOURS:
        return _in_unit_square(principal_components(vectors)), "pca"
    umap = import_module("umap").UMAP(n_neighbors=_NEIGHBOURS, metric="cosine", random_state=0, n_jobs=1)
    places: NDArray[np.float32] = umap.fit_transform(vectors)
    return _in_unit_square(places), "umap"


def principal_components(vectors: Vectors) -> NDArray[np.float32]:
    """(n, dim) -> (n, 2): along the two directions in which the vectors vary most (Hotelling 1933).

    The sign of each direction is that of its largest part, so that a second run draws the same map.
    """
    centred = vectors - vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)  # (dim, n) @ (n, dim) -> (dim, dim)
    two = directions[:, : -min(3, directions.shape[1] + 1) : -1]  # the last ones vary most
    two = two * np.sign(two[np.abs(two).argmax(axis=0), np.arange(two.shape[1])])
    return np.asarray(centred @ two, np.float32)  # (n, dim) @ (dim, 2) -> (n, 2)


def _in_unit_square(places: NDArray[np.float32]) -> NDArray[np.float32]:
    """Moved and scaled, with the same scale for both; a few far ones are drawn in to the edge."""
    low, high = np.percentile(places, [0.5, 99.5], axis=0)
    scale = max(float((high - low).max()), 1e-9)
    middle = (low + high) / 2
    return np.asarray(np.clip((places - middle) / scale + 0.5, -0.02, 1.02), np.float32)
