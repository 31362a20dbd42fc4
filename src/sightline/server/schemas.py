"""The shapes of requests and answers, which the OpenAPI document shows."""

import base64
import re
from typing import Annotated, Any, Literal

from fastapi import Query as Parameter
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from sightline.analysis.duplicates import SAME
from sightline.server.answers import Problem
from sightline.types import Failure

MOST_HITS = 1000
DEEPEST = 100_000
MOST_BROWSED = 10_000
_BASE64_PIECE = 2**20  # characters
_DATA_URL = re.compile(rb"data:[\w/\\+.-]*;base64,")


def decoded_base64(text: bytes | memoryview) -> bytes:
    """The bytes that base64 stands for, a piece at a time: others are answered in between."""
    start = found.end() if (found := _DATA_URL.match(text)) else 0
    rest, decoded = b"", list[bytes]()
    try:
        for at in range(start, len(text), _BASE64_PIECE):
            piece = (rest + text[at : at + _BASE64_PIECE]).replace(b"\\/", b"/")  # as JSON may write a slash
            whole = (len(piece) - 1) // 4 * 4
            decoded.append(base64.b64decode(piece[:whole], validate=True))
            rest = piece[whole:]
        return b"".join([*decoded, base64.b64decode(rest, validate=True)])
    except ValueError as error:
        raise Problem(
            422, f"a picture is not valid base64 ({error}): send the bytes of a picture file in it"
        ) from error


def _picture(given: Any, info: ValidationInfo) -> bytes:
    """The bytes of a picture in base64. Of a large body they were taken out before, and a name stands there."""
    if isinstance(given, str):
        taken = info.context.pop(given, None) if info.context else None
        return decoded_base64(given.encode("utf-8", "replace")) if taken is None else bytes(taken)
    if isinstance(given, bytes):
        return given
    raise ValueError("expected a string")


Words = Annotated[str, Field(max_length=2000)]
Base64 = Annotated[
    bytes,
    BeforeValidator(_picture),
    WithJsonSchema(
        {"type": "string", "description": "the bytes of a picture file in base64, a data: address is fine too"}
    ),
]
Url = Annotated[
    str, Field(max_length=2000, description="a picture on the web; where the server was started to fetch such ones")
]
Weight = Annotated[FiniteFloat, Field(ge=-100, le=100)]
By = Annotated[
    Literal["both", "meaning", "text"],
    Field(description="go by what pictures show, by what is written of them (title, caption, tags ...), or by both"),
]
Sort = Annotated[
    Literal["relevance", "newest", "oldest", "name", "size"],
    Field(description="another order than relevance gives the likely hits alone, in that order"),
]
Region = Annotated[
    tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat],
    Field(description="the part of the picture that is meant: x, y, width, height as shares of it, 0 to 1"),
]
Name = Annotated[str, Field(max_length=100)]
IndexName = Annotated[str | None, Parameter(max_length=100)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _has_known_fields(cls, given: Any) -> Any:
        """One error for all unknown fields: a million of them would be a million errors, built on the event loop."""
        if isinstance(given, dict) and (
            unknown := next((name for name in given if name not in cls.model_fields), None)
        ):
            raise ValueError(f"unknown field {str(unknown)[:60]!r}, expected some of {', '.join(cls.model_fields)}")
        return given


class QueryTerm(_Request):
    """One part of a query: words, an indexed or uploaded query picture by id, the bytes of a picture, or its URL."""

    text: Words | None = None
    image_id: Annotated[str, Field(max_length=80)] | None = None
    image: Base64 | None = None
    image_url: Url | None = None
    weight: Weight = 1.0
    region: Region | None = None

    @model_validator(mode="after")
    def _has_one(self) -> "QueryTerm":
        if sum(part is not None for part in (self.text, self.image_id, self.image, self.image_url)) != 1:
            raise ValueError("expected one of text, image_id, image and image_url")
        return self


class Query(_Request):
    """What to look for: the sum of all that is given. `index` names one of the server's indexes."""

    text: Words | None = None
    image: Base64 | None = None
    image_url: Url | None = None
    region: Region | None = None
    terms: Annotated[list[QueryTerm], Field(max_length=32)] = []
    where: dict[str, Any] | str | None = Field(
        default=None,
        description='a filter such as {"width": {"$gte": 800}, "taken": {"$gte": "2024-05"}}, or "width>=800"',
    )
    index: Name | None = None


class SearchRequest(Query):
    """A query, and which part of its results is wanted."""

    k: Annotated[int, Field(ge=1, le=MOST_HITS)] = 50
    offset: Annotated[int, Field(ge=0, le=DEEPEST)] = 0
    min_score: Annotated[FiniteFloat, Field(ge=-1, le=1)] | None = None
    by: By = "both"
    sort: Sort = "relevance"
    group_duplicates: bool = False
    duplicate_score: Annotated[
        FiniteFloat, Field(ge=0.5, le=1, description="the cosine from which two pictures count as copies")
    ] = SAME


class Links(BaseModel):
    """Where a hit's pictures are; `file` is null where the file has vanished."""

    file: str | None
    thumbnail: str


class Picture(BaseModel):
    """One indexed picture."""

    id: str
    uri: str
    payload: dict[str, Any]
    links: Links
    gone: bool


class FoundPicture(Picture):
    """One picture. `duplicates` are the ids of hits that were folded into this one."""

    score: float
    line: float | None = Field(
        default=None, description="the score from which on this picture is likely what the words mean"
    )
    is_likely: bool | None = Field(default=None, description="whether its score reaches the line")
    duplicates: list[str] = []
    evidence: dict[str, list[tuple[int, int]]] = Field(
        default={},
        description="why it was found: meaning, and fields in which words of the query stand, with their places",
    )


class TookMs(BaseModel):
    """Milliseconds; `total` includes waiting for the model."""

    encode: float
    search: float
    total: float


class SearchAnswer(BaseModel):
    """Hits, best first. `total_estimate` counts what passes the filter; ask for `next_offset` for more, null ends."""

    query: str
    likely: int | None = Field(
        description="how many of these hits are likely, null where that is not known: for queries with a picture or a "
        "subtracted part, beyond the first 1,000 hits, and for an index without a line"
    )
    note: str | None = Field(description="what makes the hits doubtful: words that the model perhaps does not read")
    hits: list[FoundPicture]
    total_estimate: int
    next_offset: int | None
    took_ms: TookMs
    model: str
    index: str


class ScoresAnswer(BaseModel):
    """How many pictures score at least so much: `counts[i]` reach `scores[i]`; `deepest` were looked at."""

    scores: list[float]
    counts: list[int]
    deepest: int
    total: int


class PicturesAnswer(BaseModel):
    """Some pictures of the index."""

    hits: list[Picture]
    total_estimate: int
    next_offset: int | None


class Uploaded(BaseModel):
    """Pictures that are on the disk and can be found."""

    pictures: list[Picture]


class Removed(BaseModel):
    """How many pictures left the index."""

    removed: int


class QueryPicture(BaseModel):
    """A picture to search by: give `id` as image_id."""

    id: str
    width: int
    height: int
    thumbnail: str


class ClassifyRequest(_Request):
    """Labels, and one picture by id or by its bytes."""

    labels: Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(min_length=2, max_length=1000)]
    image_id: Annotated[str, Field(max_length=80)] | None = None
    image: Base64 | None = None
    template: Annotated[str, Field(max_length=200)] = "a photo of {}"
    index: Name | None = None


class Label(BaseModel):
    """One label with its probability."""

    label: str
    probability: float


class ClassifyAnswer(BaseModel):
    """The labels, most probable first; the probabilities sum to 1."""

    labels: list[Label]
    model: str


class EmbeddingsRequest(_Request):
    """Texts and pictures to turn into vectors."""

    texts: Annotated[list[Words], Field(max_length=256)] = []
    images: Annotated[list[Base64], Field(max_length=32)] = []
    index: Name | None = None


class EmbeddingsAnswer(BaseModel):
    """Unit vectors, in the order asked."""

    model: str
    dim: int
    texts: list[list[float]]
    images: list[list[float]]


class FacetValue(BaseModel):
    """One value of a field, and how many pictures have it."""

    value: Any
    count: int


class FacetAnswer(BaseModel):
    """One field that can be filtered by."""

    field: str
    kind: Literal["text", "number", "truth", "time", "list"]
    count: int
    values: list[FacetValue]
    least: Any = None
    most: Any = None


class FacetsAnswer(BaseModel):
    """All fields; `is_complete` is false while they are still counted."""

    facets: list[FacetAnswer]
    is_complete: bool


class FailuresAnswer(BaseModel):
    """The newest failures first, `total` in all."""

    failures: list[Failure]
    total: int


class IndexStatus(BaseModel):
    """One index. `retry` is the progress of a retry that was asked for here."""

    name: str
    model: str | None
    dim: int | None
    pictures: int
    failures: int
    size_bytes: int | None
    roots: dict[str, Any]
    words: bool
    uploads: bool
    retry: dict[str, Any] | None
    problem: str | None = None


class StatusAnswer(BaseModel):
    """The server and its indexes; the first one is the one that requests mean without a name."""

    version: str
    indexes: list[IndexStatus]
    may_write: bool
    needs_key: bool
