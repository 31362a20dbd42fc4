"""The bodies of requests: JSON, or a form with JSON and a picture in it; large ones keep nobody else waiting."""

import secrets
from collections.abc import Iterator
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile

from sightline.server.answers import Problem
from sightline.server.schemas import decoded_base64
from sightline.server.state import get_state

_SMALL_BYTES = 64 * 1024  # of JSON, read at once; more is read on a thread
_LONGEST_WORDS = 12_288  # bytes: 2,000 characters as escapes of six each; what is longer can only be a picture
_MOST_BYTES = 4 * 2**20  # of JSON beside the pictures in it: 256 texts are 3 MiB at most
_MOST_VALUES = 20_000  # a thousand labels or conditions are the most that a request may ask for
_BACKSLASH = ord("\\")


async def read_form(request: Request, model: type[Any]) -> tuple[Any, bytes | None]:
    """The body as JSON, or as multipart with a picture beside it."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await read_json(request, model, expected="application/json or multipart/form-data"), None
    async with request.form(max_files=1, max_fields=2) as form:
        query, uploaded = _text(form, "query").encode("utf-8", "replace"), await _file(form, "image")
    return await _parsed(request, model, query or b"{}"), uploaded


async def read_json(request: Request, model: type[Any], *, expected: str = "application/json") -> Any:
    """The JSON body as a model."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, f"the body is {kind or 'of no type'}, expected {expected}")
    return await _parsed(request, model, await request.body())


async def _parsed(request: Request, model: type[Any], data: bytes) -> Any:
    if len(data) < _SMALL_BYTES:
        return model.model_validate_json(data)
    return await get_state(request).decoding.run(parse_large, model, data)


def parse_large(model: type[Any], data: bytes) -> Any:
    """The JSON as a model, its pictures taken out before: no single step stops the other threads for long.

    A parser holds Python's lock from the first byte to the last: 1.4 s for 60 MB of escapes, or for 390,000 fields.
    """
    pictures, mark = dict[str, bytes](), secrets.token_hex(8)
    rest, known, seen, taken_bytes, values, strings = list[bytes](), 0, 0, 0, 0, 0
    for start, end in _strings(data):
        _check_size(start - taken_bytes, values)
        strings, values = strings + 1, values + _values(data, seen, start)
        seen = end
        if end - start > _LONGEST_WORDS:
            name = f"{mark}-{len(pictures)}"
            pictures[name] = decoded_base64(memoryview(data)[start:end])
            rest += [data[known:start], name.encode()]
            known, taken_bytes = end, taken_bytes + end - start
        if strings > 2 * values + 1:  # more than fields and items can have: the parser finds the fault
            break
    _check_size((len(data) if strings <= 2 * values + 1 else seen) - taken_bytes, values)
    _check_size(0, values + _values(data, seen, len(data)))
    found = model.model_validate_json(b"".join([*rest, data[known:]]), context=pictures)
    if pictures:  # a field for a picture takes its own out
        raise Problem(422, f"a text has more than {_LONGEST_WORDS:,} bytes, expected at most 2,000 characters")
    return found


def _strings(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each string of a JSON document begins and ends, without its quotes."""
    quote = data.find(b'"')
    while quote >= 0:
        start = quote + 1
        end = data.find(b'"', start)
        while end >= 0 and data[end - 1] == _BACKSLASH:
            if end - start > _LONGEST_WORDS:
                raise _no_base64()
            text = data[start:end]
            if (len(text) - len(text.rstrip(b"\\"))) % 2 == 0:
                break
            end = data.find(b'"', end + 1)
        if end < 0:
            return  # the parser says what is wrong
        yield start, end
        quote = data.find(b'"', end + 1)


def _values(data: bytes, start: int, end: int) -> int:
    return sum(data.count(sign, start, end) for sign in (b",", b"[", b"{"))


def _check_size(size_bytes: int, values: int) -> None:
    if size_bytes > _MOST_BYTES or values > _MOST_VALUES:
        raise Problem(
            422,
            f"the JSON has {values:,} values or more in {size_bytes:,} bytes beside its pictures, expected at most "
            f"{_MOST_VALUES:,} in {_MOST_BYTES:,}: ask for less at once",
        )


def _no_base64() -> Problem:
    return Problem(422, f"a string has more than {_LONGEST_WORDS:,} bytes and is no picture in base64: send less")


def _text(form: FormData, name: str) -> str:
    value = form.get(name, "")
    if not isinstance(value, str):
        raise Problem(422, f"the part {name!r} is a file, expected text: send it without a file name")
    return value


async def _file(form: FormData, name: str) -> bytes | None:
    value = form.get(name)
    if isinstance(value, str):
        raise Problem(422, f"the part {name!r} is text, expected a file: send it with a file name")
    return await value.read() if isinstance(value, UploadFile) else None
