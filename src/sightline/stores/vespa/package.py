"""An index turned into a Vespa application package: schemas, query profile, services, and a text tower if asked for."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from vespa import package as parts

from sightline.errors import StoreError, UsageError
from sightline.stores.checks import check_dim
from sightline.stores.vespa.longs import PLACES
from sightline.stores.vespa.towers import Tower, read_tower

APPLICATION = "sightline"
"""The name of the application, and the beginning of its clusters' names, by which it is known to be ours."""
LARGEST_ANSWER = 10_000
"""Hits that the application's query profile lets one query ask for; Vespa's own limit is 400."""
NOTES = "_note"
"""What follows an index's name in the name of the schema that keeps its notes."""
LINKS, EXPLORED = 16, 500
"""The graph: links of each vector, and vectors looked at for each new one. Vespa's own are 16 and 200; queries by
words, which lie off the pictures' vectors, need the better graph (on other engines; not measured on Vespa)."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")


def application_package(folder: Path, name: str, dim: int, *, text_model: Path | None = None) -> Path:
    """Write the package of an index into a folder, to be deployed by `vespa deploy` or merged into another one.

    With `text_model`, a model folder, Vespa itself turns words into vectors: `embed(<name>_text, @text)`. Raises
    `UsageError` for a name or a model that Vespa cannot take.
    """
    build(name, dim, text_model=text_model).to_files(folder)
    return folder


def build(
    name: str, dim: int, *, text_model: Path | None = None, links: int = LINKS, explored: int = EXPLORED
) -> parts.ApplicationPackage:
    """The package as pyvespa's object."""
    check_name(name)
    check_dim(dim)
    tower = read_tower(text_model, dim) if text_model else None
    return parts.ApplicationPackage(
        name=APPLICATION,
        schema=[_pictures(name, dim, links, explored), _notes(name)],
        query_profile=parts.QueryProfile(fields=[parts.QueryField("maxHits", LARGEST_ANSWER)]),
        components=[_component(name, tower)] if tower else None,
        include_files=[(path, f"models/{target}") for path, target in _files(name, tower)] if tower else None,
    )


def check_name(name: str) -> None:
    """Raise `UsageError` for a name that Vespa's schemas cannot have."""
    if not _NAME.fullmatch(name) or name.endswith(NOTES):
        raise UsageError(
            f"the name {name!r} cannot be a schema of Vespa, expected up to 60 small letters, digits and underscores, "
            f"a letter first and not {NOTES} last: choose another name"
        )


def component_of(name: str) -> str:
    """The name under which Vespa knows the text tower of an index."""
    return f"{name}_text"


def merged_services(services: str, addition: str) -> str:
    """The services of one application with the document types and components of another; `StoreError` if not ours."""
    root, other = ElementTree.fromstring(services), ElementTree.fromstring(addition)
    for tag, below in (("content", "documents"), ("container", ".")):
        home, guest = _cluster(root, tag).find(below), _cluster(other, tag).find(below)
        if home is None or guest is None:
            raise StoreError(f"services.xml has no <{below}>, expected Sightline's: deploy the package again")
        known = {(one.tag, one.get("type"), one.get("id")) for one in home}
        home.extend(one for one in guest if (one.tag, one.get("type"), one.get("id")) not in known)
    return _text(root)


def reduced_services(services: str, name: str) -> str:
    """The services without an index; empty if no other is left."""
    root = ElementTree.fromstring(services)
    documents = _cluster(root, "content").find("documents")
    container = _cluster(root, "container")
    for one in list(documents if documents is not None else ()):
        if one.get("type") in (name, name + NOTES):
            documents.remove(one)  # type: ignore[union-attr]
    for one in container.findall("component"):
        if one.get("id") == component_of(name):
            container.remove(one)
    return _text(root) if documents is not None and len(documents) else ""


def _cluster(root: ElementTree.Element, tag: str) -> ElementTree.Element:
    found = root.find(f"{tag}[@id='{APPLICATION}_{tag}']")
    if found is None:
        raise StoreError(
            f"the application that runs in Vespa has no <{tag} id='{APPLICATION}_{tag}'>: somebody else made it, "
            "expected one of Sightline's or none: write the package to a folder with "
            "sightline.stores.vespa.application_package, and merge its schemas into that application"
        )
    return found


def _text(root: ElementTree.Element) -> str:
    return ElementTree.tostring(root, "unicode")


def _pictures(name: str, dim: int, links: int, explored: int) -> parts.Schema:
    """`tokens` is what is compared for equality, `ordered` what is ordered; see longs.py."""
    graph = parts.HNSW("angular", links, explored)
    pair = parts.Struct("pair", [parts.Field("which", "long"), parts.Field("amount", "long")])
    ordered = parts.Field("ordered", "array<pair>", struct_fields=[_part("which"), _part("amount")])
    fields = [
        parts.Field("vector", f"tensor<float>(x[{dim}])", ["attribute", "index", "summary"], ann=graph),
        _sought("tokens", "array<long>"),
        ordered,
        *_common(),
    ]
    nearest = parts.RankProfile(
        "nearest", "closeness(field, vector)", inputs=[("query(q)", f"tensor<float>(x[{dim}])")]
    )
    whole = _summary("whole", ["record", "vector"])
    return _schema(name, parts.Document(fields, structs=[pair]), [nearest], [_summary("short", ["record"]), whole])


def _notes(name: str) -> parts.Schema:
    document = parts.Document([_sought("kind", "long"), *_common()])
    return _schema(name + NOTES, document, [], [_summary("short", ["record"])])


def _schema(name: str, document: Any, profiles: Sequence[Any], summaries: Sequence[Any]) -> parts.Schema:
    return parts.Schema(name, document, rank_profiles=list(profiles), document_summaries=list(summaries))


def _common() -> list[parts.Field]:
    """The record as JSON, what it is looked up by, and its place in the order of ids."""
    others = [parts.Field(f"place{at}", "long", ["attribute"]) for at in range(1, PLACES)]
    rest = parts.Field("rest", "string", ["attribute"])
    return [parts.Field("record", "string", ["summary"]), _sought("lookup", "long"), _sought("place0", "long"), *others,
            rest]  # fmt: skip


def _sought(name: str, kind: str) -> parts.Field:
    """An attribute with an index of its values, which filters and never ranks."""
    return parts.Field(name, kind, ["attribute"], attribute=["fast-search"], rank="filter")


def _part(name: str) -> parts.StructField:
    return parts.StructField(name, indexing=["attribute"], attribute=["fast-search"])


def _summary(name: str, fields: Sequence[str]) -> parts.DocumentSummary:
    return parts.DocumentSummary(name, summary_fields=[parts.Summary(field) for field in fields])


def _component(name: str, tower: Tower) -> parts.Component:
    """Vespa's embedder for any Hugging Face tokenizer and ONNX graph; the graph pools by itself."""
    settings = {
        "max-tokens": str(tower.longest),
        "transformer-input-ids": tower.input,
        "transformer-attention-mask": tower.mask,
        "transformer-token-type-ids": tower.types,
        "transformer-output": tower.output,
        "pooling-strategy": "none",
        "normalize": "true",
    }
    files = {tag: target for tag, (_, target) in zip(_TAGS, _files(name, tower), strict=True)}
    return parts.Component(
        component_of(name),
        type="hugging-face-embedder",
        parameters=[
            *(parts.Parameter(tag, {"path": f"models/{target}"}) for tag, target in files.items()),
            *(parts.Parameter(tag, {}, text) for tag, text in settings.items()),
        ],
    )


_TAGS = ("transformer-model", "tokenizer-model")


def _files(name: str, tower: Tower) -> list[tuple[Path, str]]:
    start = component_of(name)
    return [(tower.model, f"{start}.onnx"), (tower.tokenizer, f"{start}.tokenizer.json")]
