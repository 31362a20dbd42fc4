"""The Vespa application package of an index: schemas, query profile, services, and a text tower if asked for.

Vespa's `hugging-face-embedder` runs one text at a time: Hugging Face tokenizer without padding, ONNX graph with one to
three inputs (ids, mask, types), pooling `none` for a graph that gives (batch, dim), then normalisation.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from vespa import package as parts

from sightline.errors import StoreError, UsageError
from sightline.stores.checks import check_dim
from sightline.stores.vespa.filters import PLACES

APPLICATION = "sightline"
"""The name of the application, and the beginning of its clusters' names, by which it is known to be ours."""
LARGEST_ANSWER = 10_000
"""Hits that the application's query profile lets one query ask for; Vespa's own limit is 400."""
NOTES = "_note"
"""What follows an index's name in the name of the schema that keeps its notes."""
LINKS, EXPLORED = 16, 500
"""The graph: links of each vector, and vectors looked at for each new one. Vespa's own are 16 and 200; queries by
words, which lie off the pictures' vectors, need the better graph (on other engines; not measured on Vespa)."""

_TRIALS = ("a red dog", "A Red Dog, running!", "Zwei Hunde im Schnee", "café — 雪山")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")


@dataclass(frozen=True, slots=True)
class EmbedderFiles:
    """The files of a text tower, the names in its graph (empty for what it has not), and its longest text in tokens."""

    model: Path
    tokenizer: Path
    input: str
    mask: str
    types: str
    output: str
    longest: int


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
            f"the name {name!r} is not a valid schema in Vespa, expected up to 60 small letters, digits and "
            f"underscores, a letter first and not {NOTES} last: choose another name"
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
    """`tokens` is what is compared for equality, `ordered` what is ordered; see filters.py."""
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


def _component(name: str, tower: EmbedderFiles) -> parts.Component:
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


def _files(name: str, tower: EmbedderFiles) -> list[tuple[Path, str]]:
    start = component_of(name)
    return [(tower.model, f"{start}.onnx"), (tower.tokenizer, f"{start}.tokenizer.json")]


def read_tower(folder: Path, dim: int) -> EmbedderFiles:
    """What Vespa needs of a model in the open_clip ONNX layout; `UsageError`, with the reason, if it cannot run it.

    It cannot run graphs of a fixed length or that see their padding (SigLIP), texts that are cleaned in a way that the
    tokenizer does not know, tokens taken out after tokenizing, weights outside the graph, and results in 16 bits.
    """
    model, tokenizer = folder / "textual" / "model.onnx", folder / "textual" / "tokenizer.json"
    try:
        text = json.loads((folder / "config.json").read_text("utf-8"))["text_cfg"]
    except (OSError, ValueError, KeyError) as error:
        raise _refusal(folder, f"config.json has no text_cfg ({error})") from error
    if not model.is_file() or not tokenizer.is_file():
        raise _refusal(folder, "textual/model.onnx or textual/tokenizer.json is missing")
    if [path for path in model.parent.iterdir() if path.suffix in (".data", ".onnx_data")]:
        raise _refusal(folder, "the weights lie outside the graph")
    _check_cleaning(folder, text, tokenizer)
    longest = int(text.get("context_length") or 77)
    return _tower(folder, model, tokenizer, longest, dim, masks_padding=bool(text.get("masks_padding")))


def _tower(folder: Path, model: Path, tokenizer: Path, longest: int, dim: int, *, masks_padding: bool) -> EmbedderFiles:
    from onnxruntime import InferenceSession

    session = InferenceSession(str(model), providers=["CPUExecutionProvider"])
    inputs = {one.name: one for one in session.get_inputs()}
    mask = next((name for name in inputs if "mask" in name), "")
    types = next((name for name in inputs if "type" in name), "")
    others = [name for name in inputs if name not in (mask, types)]
    outputs = [one for one in session.get_outputs() if len(one.shape) == 2 and one.shape[1] == dim]
    if len(others) != 1 or (types and not mask):
        raise _refusal(folder, f"the graph takes {', '.join(inputs)}, not ids, a mask and types")
    if not outputs or outputs[0].type != "tensor(float)":
        raise _refusal(folder, f"the graph gives no float32 of the shape (batch, {dim})")
    if isinstance(inputs[others[0]].shape[1], int):
        raise _refusal(folder, "the graph wants texts of a fixed length, and Vespa's embedder never pads")
    tower = EmbedderFiles(model, tokenizer, others[0], mask, types, outputs[0].name, longest)
    if not masks_padding and not _is_same_when_cut(session, tower):
        raise _refusal(folder, "the vector of a text changes with its padding, and Vespa's embedder never pads")
    return tower


def _check_cleaning(folder: Path, text: Mapping[str, Any], tokenizer: Path) -> None:
    """The tokenizer alone must give what the cleaned text gives: Vespa cleans nothing."""
    from tokenizers import Tokenizer

    options = text.get("tokenizer_kwargs") or {}
    if text.get("no_causal_mask"):
        raise _refusal(folder, "its text tower sees the padding (no_causal_mask), and Vespa's embedder never pads")
    if options.get("strip_sep_token"):
        raise _refusal(folder, "it wants a token removed after tokenizing (strip_sep_token)")
    clean = options.get("clean") or ("whitespace" if text.get("hf_tokenizer_name") else "lower")
    reader = Tokenizer.from_file(str(tokenizer))
    changed = [one for one in _TRIALS if clean == "lower" and reader.encode(one).ids != reader.encode(one.lower()).ids]
    if clean not in ("lower", "whitespace") or changed:
        raise _refusal(folder, f"it wants text cleaned ({clean}) in a way that its tokenizer.json does not")


def _is_same_when_cut(session: Any, tower: EmbedderFiles) -> bool:
    """Whether padding to the full length leaves a vector as it is; some graphs only claim that any length fits."""
    import numpy as np
    from tokenizers import Tokenizer

    reader = Tokenizer.from_file(str(tower.tokenizer))
    pad = int((reader.padding or {}).get("pad_id", 0))
    reader.no_padding()
    ids = reader.encode(_TRIALS[0]).ids
    rows = []
    for length in (len(ids), tower.longest):
        table = np.array([ids + [pad] * (length - len(ids))])
        given = {tower.input: table, tower.mask: table * 0 + (np.arange(length) < len(ids)), tower.types: table * 0}
        kinds = {one.name: np.int32 if one.type == "tensor(int32)" else np.int64 for one in session.get_inputs()}
        (row,) = session.run([tower.output], {name: given[name].astype(kind) for name, kind in kinds.items()})
        rows.append(row[0] / np.linalg.norm(row[0]))
    return float(rows[0] @ rows[1]) > 0.95  # dynamic int8 alone: 0.98


def _refusal(folder: Path, reason: str) -> UsageError:
    return UsageError(
        f"the text tower of {folder} cannot run in Vespa: {reason}; expected an open_clip ONNX model whose graph takes "
        "texts of any length: leave text_model out, and Sightline turns words into vectors itself"
    )
