"""A graph without its large weights, which ONNX Runtime then maps from where they lie in the graph's own file.

A model that is read whole takes its size in memory twice over, and seconds: 1.9 GB and 4.6 s of CPU for SigLIP2's text
tower, of which one query needs a third. Mapped it takes 0.17 s, and what is touched. Nothing is written to disk: the
fields of the protobuf (onnx.proto3) are copied one by one, and the content of a large tensor gives way to its place in
the file, as the format allows. That place may be odd: processors other than those below might mind.
"""

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_LEAST_BYTES = 1 << 20  # of a tensor: smaller ones are read with the graph
_MACHINES = ("x86_64", "amd64", "arm64", "aarch64")
_GRAPH, _INITIALIZER = 7, 5  # of ModelProto and GraphProto
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14  # of TensorProto
_VARINT, _BYTES = 0, 2  # kinds of fields
_FIXED_BYTES = {1: 8, 5: 4}


def without_weights(graph: Path, *, least_bytes: int = _LEAST_BYTES) -> bytes | None:
    """The graph with references to its own file for weights of so many bytes; None where it has none of them.

    None, too, where the file is not understood: whoever loads it says what is wrong.
    """
    if platform.machine().lower() not in _MACHINES:
        return None
    graph = graph.resolve()  # a link of the cache of `hf download`
    with graph.open("rb") as file:
        parts, size_bytes = list[bytes](), graph.stat().st_size
        try:
            for number, at, start, end in _fields(file, 0, size_bytes):
                if number == _GRAPH:
                    parts.append(_delimited(_GRAPH, _graph(file, start, end, graph.name, least_bytes)))
                else:
                    parts.append(_read(file, at, end))
        except (ValueError, IndexError):
            return None
    model = b"".join(parts)
    return model if len(model) < size_bytes - least_bytes // 2 else None


def _graph(file: BinaryIO, start: int, end: int, name: str, least_bytes: int) -> bytes:
    """The fields of a GraphProto from `start` to `end`, large tensors without their content."""
    parts = list[bytes]()
    for number, at, inside, after in _fields(file, start, end):
        raw = None
        if number == _INITIALIZER and after - inside >= least_bytes:
            fields = list(_fields(file, inside, after))
            raw = next(((first, last) for kind, _, first, last in fields if kind == _RAW_DATA), None)
        if raw is None or raw[1] - raw[0] < least_bytes:
            parts.append(_read(file, at, after))
            continue
        kept = [_read(file, place, last) for kind, place, _, last in fields if kind != _RAW_DATA]
        place = {"location": name, "offset": str(raw[0]), "length": str(raw[1] - raw[0])}
        for key, value in place.items():
            kept.append(_delimited(_EXTERNAL_DATA, _delimited(1, key.encode()) + _delimited(2, value.encode())))
        kept.append(_varint(_DATA_LOCATION << 3 | _VARINT) + _varint(1))  # EXTERNAL
        parts.append(_delimited(_INITIALIZER, b"".join(kept)))
    return b"".join(parts)


def _fields(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, place, place of the content and end of each field; raises `ValueError` where that cannot be."""
    while start < end:
        file.seek(start)
        head = file.read(20)  # two varints at most
        key, used = _number(head, 0)
        kind = key & 7
        if kind == _BYTES:
            length, used = _number(head, used)
        elif kind == _VARINT:
            length = _number(head, used)[1] - used
        elif (length := _FIXED_BYTES.get(kind, -1)) < 0:
            raise ValueError(f"field {key >> 3} is of kind {kind}")
        after = start + used + length
        if after > end:
            raise ValueError(f"field {key >> 3} ends at {after}, after {end}")
        yield key >> 3, start, start + used, after
        start = after


def _read(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)


def _number(data: bytes, at: int) -> tuple[int, int]:
    """The varint at that place, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _delimited(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content
