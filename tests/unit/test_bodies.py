"""Large JSON bodies of requests: read as small ones are, in steps that keep nobody else waiting."""

import base64
import json
from typing import Any

import pytest
from tests.pictures import encoded, scene

pytest.importorskip("fastapi", reason="the extra server is not installed")

from pydantic import ValidationError

from sightline.server.answers import Problem
from sightline.server.bodies import parse_large
from sightline.server.schemas import EmbeddingsRequest, SearchRequest

PICTURE = encoded(scene(1, (400, 300)), "PNG")
IN_BASE64 = base64.b64encode(PICTURE * (1 + 40_000 // len(PICTURE))).decode()


class Parser:
    """Stands for a model, and keeps what it is given to parse."""

    given = b""

    @classmethod
    def model_validate_json(cls, data: bytes, context: dict[str, bytes]) -> None:
        cls.given = data
        context.clear()


@pytest.mark.parametrize("image", [IN_BASE64, f"data:image/png;base64,{IN_BASE64}"])
@pytest.mark.parametrize("write", [json.dumps, lambda value: json.dumps(value).replace("/", "\\/")])
def test_a_large_body_is_read_as_a_small_one(image: str, write: Any) -> None:
    asked = {
        "terms": [{"text": 'a "dog" \\" / \\\\'}, {"image": image, "weight": 2}],
        "where": {"a": ["é\u2028" * 500] * 9},
        "k": 3,
    }
    for body in (write(asked), write(asked | {"k": 4, "image": image})):
        small, large = SearchRequest.model_validate_json(body), parse_large(SearchRequest, body.encode())
        assert small == large
        assert large.terms[1].image == base64.b64decode(IN_BASE64)
    both = write({"images": [image, image[:-4]], "texts": ["a"]}).encode()
    assert parse_large(EmbeddingsRequest, both) == EmbeddingsRequest.model_validate_json(both)


def test_no_parser_gets_a_picture_or_millions_of_values() -> None:
    """It holds Python's lock for as long as it takes, and the server answers nobody meanwhile."""
    parse_large(Parser, b'{"image": "' + b"A" * 8_000_000 + b'"}')
    assert len(Parser.given) < 100
    for body in (
        b"{" + b",".join(b'"k%d":1' % number for number in range(390_000)) + b"}",
        b'{"where":{"a":[' + b"{}," * 190_000 + b"{}]}}",
        b'{"text":"' + b"\\u00e9" * 1_000_000 + b'"}',
        b'{"text":"' + "é".encode() * 3_000_000 + b'"}',
        b'{"text":"' + b'\\"' * 3_000_000 + b'"}',
        b'{"text":"' + b"\\" * 6_000_001 + b'"}',
        b'{"k":' + b"1" * 6_000_000 + b"}",
        b'{"where":' + b"[" * 6_000_000,
        b" " * 6_000_000 + b"{}",
    ):
        with pytest.raises(Problem) as raised:
            parse_large(Parser, body)
        assert raised.value.status_code == 422
        assert len(raised.value.detail) < 300


def test_only_a_picture_may_be_long() -> None:
    for body in ('{"text": "%s"}', '{"where": {"a": "%s"}}', '{"k": 1, "image_url": "%s"}'):
        with pytest.raises((Problem, ValidationError)):
            parse_large(SearchRequest, (body % ("A" * 20_000)).encode())
    with pytest.raises(Problem, match="not valid base64"):
        parse_large(SearchRequest, b'{"image": "' + b"A" * 20_001 + b'"}')


def test_a_broken_body_is_said_to_be() -> None:
    for body in (b'"' * 100_000, b'{"text": "a', b'{"k": 1}' * 20_000, b"\xff" * 100_000, b'{"text": "' + b"\\" * 20):
        with pytest.raises(ValidationError):
            parse_large(SearchRequest, body)
