"""What is given to a store, checked before any store takes it."""

import math
from collections.abc import Sequence
from datetime import datetime

import numpy as np

from sightline.errors import DimensionMismatch, UsageError
from sightline.filters.where import LARGEST_INTEGER
from sightline.types import Payload, Record, Vectors

_LARGEST_DIM = 65_536
_NORM_TOLERANCE = 0.01  # encoders normalise in float32 or float16; what is further off was not normalised


def check_records(records: Sequence[Record], dim: int) -> Vectors:
    """The vectors of n records as (n, dim) float32; raises for ids, vectors or payloads that cannot be."""
    for record in records:
        if not record.id or not _is_storable(record.id) or not _is_storable(record.uri):
            raise UsageError(
                f"the record of {record.uri!r} has the id {record.id!r}, expected valid Unicode for both and an id "
                "that is not empty: use record_id(uri)"
            )
        if np.shape(record.vector) != (dim,):
            raise DimensionMismatch(
                f"the vector of {record.uri!r} has the shape {np.shape(record.vector)}, expected ({dim},): "
                "encode it with the model of this index"
            )
        check_payload(record.payload, record.uri)
    vectors = np.array([record.vector for record in records], np.float32).reshape(len(records), dim)
    norms = np.linalg.norm(vectors, axis=1)  # (n, dim) -> (n,)
    wrong = np.flatnonzero(~(np.abs(norms - 1) <= _NORM_TOLERANCE))
    if len(wrong):
        raise UsageError(
            f"the vector of {records[wrong[0]].uri!r} has the norm {norms[wrong[0]]:.4g}, expected 1: normalise it"
        )
    return vectors


def check_dim(dim: int) -> None:
    """Raise `UsageError` for a length that vectors cannot have."""
    if not 1 <= dim <= _LARGEST_DIM:
        raise UsageError(f"dim is {dim}, expected 1 to {_LARGEST_DIM}: give the length of the model's vectors")


def check_search(vectors: Vectors, k: int, offset: int, dim: int) -> Vectors:
    """The queries as (q, dim) float32; raises for queries, k or offset that cannot be."""
    queries = np.ascontiguousarray(vectors, np.float32)
    if queries.ndim != 2:
        raise UsageError(f"the queries have the shape {queries.shape}, expected (q, {dim}): add a first axis")
    if queries.shape[1] != dim:
        raise DimensionMismatch(
            f"the queries have {queries.shape[1]} dimensions, expected {dim}: encode them with the model of this index"
        )
    if not np.isfinite(queries).all():
        raise UsageError("a query holds a value that is not finite, expected numbers: look at what encoded it")
    if k < 1 or offset < 0:
        raise UsageError(f"k is {k} and offset is {offset}, expected k >= 1 and offset >= 0: change them")
    return queries


def check_payload(payload: Payload, uri: str) -> None:
    """Raise `UsageError`, naming field and value, for a payload that a store cannot keep or filter."""
    for name, value in payload.items():
        fault = _name_fault(name) or _value_fault(value)
        if fault:
            raise UsageError(f"the field {name!r} of {uri!r} is {value!r}, {fault}")


def _name_fault(name: object) -> str:
    if not isinstance(name, str) or not name or name.startswith("$"):
        return "expected a name that is text, not empty and without a leading $: rename the field"
    if not name.isprintable() or '"' in name or "\\" in name:
        return "expected a name without quotes, backslashes and control characters: rename the field"
    return ""


def _value_fault(value: object) -> str:
    match value:
        case bool():
            return ""
        case int():
            return "" if abs(value) <= LARGEST_INTEGER else "expected an integer within 53 bits: store it as text"
        case float():
            return "" if math.isfinite(value) else "expected a finite number: leave the field out"
        case str():
            return "" if _is_storable(value) else "expected valid Unicode without NUL: replace what is not"
        case datetime():
            return "" if value.utcoffset() is not None else "expected a time zone: add tzinfo=timezone.utc"
        case list() if all(isinstance(element, str) and _is_storable(element) for element in value):
            return ""
        case list():
            return "expected a list of text in valid Unicode: turn its elements into text"
    return "expected text, a number, true, false, a datetime or a list of text: convert it, or leave it out"


def _is_storable(text: str) -> bool:
    if text.isascii():
        return "\0" not in text
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
