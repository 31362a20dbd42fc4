"""The Vespa application package of an index: schemas, services, a text tower if asked for; and how it is deployed.

Vespa's `hugging-face-embedder` runs one text at a time: Hugging Face tokenizer without padding, ONNX graph with one to
three inputs (ids, mask, types), pooling `none` for a graph that gives (batch, dim), then normalisation.
"""

import json
import logging
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from vespa import package as parts

from sightline.errors import StoreError, StoreForbidden, StoreUnreachable, UsageError, WebError
from sightline.stores.base import check_dim
from sightline.stores.remote import retry
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

_TENANT = "/application/v2/tenant/default"
_TIMEOUT_S = 180  # preparing an application builds its models
_CONFLICT = 409
_log = logging.getLogger(__name__)
_TRIALS = ("a red dog", "A Red Dog, running!", "Zwei Hunde im Schnee", "café — 雪山")
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
    tower, files = _tower(name, text_model, dim) if text_model else (None, None)
    note = parts.Document([_sought("kind", "long"), *_common()])
    notes = parts.Schema(name + NOTES, note, rank_profiles=[], document_summaries=[_summary("short", "record")])
    return parts.ApplicationPackage(
        name=APPLICATION,
        schema=[_pictures(name, dim, links, explored), notes],
        query_profile=parts.QueryProfile(fields=[parts.QueryField("maxHits", LARGEST_ANSWER)]),
        components=[tower] if tower else None,
        include_files=files,
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


def _pictures(name: str, dim: int, links: int, explored: int) -> parts.Schema:
    """`tokens` is what is compared for equality, `ordered` what is ordered; see filters.py."""
    graph = parts.HNSW("angular", links, explored)
    pair = ("which", "amount")
    inner = [parts.StructField(one, indexing=["attribute"], attribute=["fast-search"]) for one in pair]
    fields = [
        parts.Field("vector", f"tensor<float>(x[{dim}])", ["attribute", "index", "summary"], ann=graph),
        _sought("tokens", "array<long>"),
        parts.Field("ordered", "array<pair>", struct_fields=inner),
        *_common(),
    ]
    inputs = [("query(q)", f"tensor<float>(x[{dim}])")]
    return parts.Schema(
        name,
        parts.Document(fields, structs=[parts.Struct("pair", [parts.Field(one, "long") for one in pair])]),
        rank_profiles=[parts.RankProfile("nearest", "closeness(field, vector)", inputs=inputs)],
        document_summaries=[_summary("short", "record"), _summary("whole", "record", "vector")],
    )


def _common() -> list[parts.Field]:
    """The record as JSON, what it is looked up by, and its place in the order of ids."""
    others = [parts.Field(f"place{at}", "long", ["attribute"]) for at in range(1, PLACES)]
    rest = parts.Field("rest", "string", ["attribute"])
    return [parts.Field("record", "string", ["summary"]), _sought("lookup", "long"), _sought("place0", "long"), *others,
            rest]  # fmt: skip


def _sought(name: str, kind: str) -> parts.Field:
    """An attribute with an index of its values, which filters and never ranks."""
    return parts.Field(name, kind, ["attribute"], attribute=["fast-search"], rank="filter")


def _summary(name: str, *fields: str) -> parts.DocumentSummary:
    return parts.DocumentSummary(name, summary_fields=[parts.Summary(field) for field in fields])


def _tower(name: str, folder: Path, dim: int) -> tuple[parts.Component, list[tuple[str | Path, str | Path]]]:
    """Vespa's embedder for a model in the open_clip ONNX layout, and its files with where they go in the package.

    It cannot run graphs of a fixed length or that see their padding (SigLIP), texts that are cleaned in a way that the
    tokenizer does not know, tokens taken out after tokenizing, weights outside the graph, and results in 16 bits:
    `UsageError`, with the reason.
    """
    from onnxruntime import InferenceSession

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
    session = InferenceSession(str(model), providers=["CPUExecutionProvider"])
    inputs = {one.name: one for one in session.get_inputs()}
    mask = next((one for one in inputs if "mask" in one), "")
    types = next((one for one in inputs if "type" in one), "")
    others = [one for one in inputs if one not in (mask, types)]
    outputs = [one for one in session.get_outputs() if len(one.shape) == 2 and one.shape[1] == dim]
    if len(others) != 1 or (types and not mask):
        raise _refusal(folder, f"the graph takes {', '.join(inputs)}, not ids, a mask and types")
    if not outputs or outputs[0].type != "tensor(float)":
        raise _refusal(folder, f"the graph gives no float32 of the shape (batch, {dim})")
    if isinstance(inputs[others[0]].shape[1], int):
        raise _refusal(folder, "the graph wants texts of a fixed length, and Vespa's embedder never pads")
    longest, output = int(text.get("context_length") or 77), outputs[0].name
    if not text.get("masks_padding") and not _is_same_when_cut(
        session, tokenizer, (others[0], mask, types), output, longest
    ):
        raise _refusal(folder, "the vector of a text changes with its padding, and Vespa's embedder never pads")
    start = component_of(name)
    files = {"transformer-model": (model, f"{start}.onnx"), "tokenizer-model": (tokenizer, f"{start}.tokenizer.json")}
    settings = {  # empty for what the graph has not; it pools by itself
        "max-tokens": str(longest),
        "transformer-input-ids": others[0],
        "transformer-attention-mask": mask,
        "transformer-token-type-ids": types,
        "transformer-output": output,
        "pooling-strategy": "none",
        "normalize": "true",
    }
    parameters = [parts.Parameter(tag, {"path": f"models/{target}"}) for tag, (_, target) in files.items()]
    parameters += [parts.Parameter(tag, {}, value) for tag, value in settings.items()]
    component = parts.Component(start, type="hugging-face-embedder", parameters=parameters)
    return component, [(path, f"models/{target}") for path, target in files.values()]


def _check_cleaning(folder: Path, text: dict[str, Any], tokenizer: Path) -> None:
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


def _is_same_when_cut(session: Any, tokenizer: Path, inputs: Sequence[str], output: str, longest: int) -> bool:
    """Whether padding to the full length leaves a vector as it is; some graphs only claim that any length fits."""
    from tokenizers import Tokenizer

    reader = Tokenizer.from_file(str(tokenizer))
    pad = int((reader.padding or {}).get("pad_id", 0))
    reader.no_padding()
    ids = reader.encode(_TRIALS[0]).ids
    kinds = {one.name: np.int32 if one.type == "tensor(int32)" else np.int64 for one in session.get_inputs()}
    rows = []
    for length in (len(ids), longest):
        table = np.array([ids + [pad] * (length - len(ids))])
        given = dict(zip(inputs, (table, table * 0 + (np.arange(length) < len(ids)), table * 0), strict=True))
        (row,) = session.run([output], {name: given[name].astype(kind) for name, kind in kinds.items()})
        rows.append(row[0] / np.linalg.norm(row[0]))
    return float(rows[0] @ rows[1]) > 0.95  # dynamic int8 alone: 0.98


def _refusal(folder: Path, reason: str) -> UsageError:
    return UsageError(
        f"the text tower of {folder} cannot run in Vespa: {reason}; expected an open_clip ONNX model whose graph takes "
        "texts of any length: leave text_model out, and Sightline turns words into vectors itself"
    )


class _RefusedError(Exception):
    """An answer with another status than 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class ConfigServer:
    """The HTTP API that deploys applications: docs.vespa.ai, "Deploy API". `root` is http://host:19071."""

    def __init__(self, root: str, timeout_s: float) -> None:
        from sightline.web.client import HttpClient

        self._root, self._timeout_s = root, timeout_s
        self._client = HttpClient(read_s=_TIMEOUT_S)

    def is_empty(self) -> bool:
        """Whether a config server answers, and runs no application."""
        try:
            return not self._active()
        except (_RefusedError, WebError):
            return False

    def add(self, package: parts.ApplicationPackage) -> None:
        """Deploy an index, beside those that run already; `StoreError` if the application is somebody else's."""
        _log.info("deploying the schemas %s to %s", ", ".join(one.name for one in package.schemas), self._root)
        self._retried(lambda: self._add(package))

    def remove(self, name: str) -> None:
        """Remove an index and its documents; the application too if no other index is left."""
        self._retried(lambda: self._remove(name))

    def _add(self, package: parts.ApplicationPackage) -> None:
        active = self._active()
        if not active:
            try:
                self._call("POST", f"{_TENANT}/prepareandactivate", package.to_zip().getvalue(), "application/zip")
            except _RefusedError as error:
                if self._active():  # another process was faster: its schemas must not be removed
                    raise _RefusedError(_CONFLICT, str(error)) from error
                raise
            return
        session, services = self._session(active)
        _merge(services, ElementTree.fromstring(package.services_to_text))
        if package.include_files:
            self._call("PUT", f"{session}/content/models/")
        files = {f"schemas/{schema.name}.sd": schema.schema_to_text.encode() for schema in package.schemas}
        files |= {target: source.read_bytes() for source, target in package.include_files}
        self._activate(session, files | {"services.xml": ElementTree.tostring(services)})

    def _remove(self, name: str) -> None:
        active = self._active()
        if not active:
            return
        session, services = self._session(active)
        if not _reduce(services, name):
            self._call("DELETE", f"{_TENANT}/application/default")
            return
        until = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
        allowed = f'<validation-overrides><allow until="{until}">schema-removal</allow></validation-overrides>'
        for schema in (name, name + NOTES):
            self._call("DELETE", f"{session}/content/schemas/{schema}.sd")
        overrides = {"validation-overrides.xml": allowed.encode()}
        self._activate(session, overrides | {"services.xml": ElementTree.tostring(services)})

    def _active(self) -> str:
        """The URL of the application that runs, empty if none does."""
        running = json.loads(self._call("GET", f"{_TENANT}/application/"))
        return str(running[0]) if running else ""

    def _session(self, active: str) -> tuple[str, ElementTree.Element]:
        """A new session with the files of the application that runs, and its services."""
        number = json.loads(self._call("POST", f"{_TENANT}/session?from={active}"))["session-id"]
        session = f"{_TENANT}/session/{number}"
        return session, ElementTree.fromstring(self._call("GET", f"{session}/content/services.xml"))

    def _activate(self, session: str, files: dict[str, bytes]) -> None:
        for path, data in files.items():
            self._call("PUT", f"{session}/content/{path}", data)
        self._call("PUT", f"{session}/prepared?applicationName=default")
        self._call("PUT", f"{session}/active")

    def _call(self, method: str, path: str, data: bytes | None = None, kind: str = "application/octet-stream") -> bytes:
        headers = {"Content-Type": kind} if data is not None else {}
        status, content = self._client.send(method, self._root + path, headers=headers, body=data)
        if status >= 300:
            raise _RefusedError(status, content.decode("utf-8", "replace")[:500])
        return content

    def _retried(self, call: Callable[[], None]) -> None:
        what = f"Vespa's config server {self._root}"
        try:
            retry(call, is_transient=_is_transient, what=what, timeout_s=self._timeout_s)
        except StoreUnreachable as error:
            raise StoreUnreachable(
                f"{error}; to deploy by other means, write the package with sightline.stores.vespa.application_package"
            ) from error
        except _RefusedError as error:
            if error.status in (401, 403):
                raise StoreForbidden(
                    f"{what} refuses this client ({error}), expected an open one: deploy the package with "
                    "Vespa's own tools, see sightline.stores.vespa.application_package"
                ) from error
            raise StoreError(f"{what} refused the application ({error}): look into Vespa's log") from error


def _is_transient(error: Exception) -> bool:
    """Another process that deploys at the same time (409), a server that starts, or none."""
    if isinstance(error, _RefusedError):
        return error.status in (_CONFLICT, 429, 502, 503, 504)
    return isinstance(error, WebError)


def _merge(services: ElementTree.Element, addition: ElementTree.Element) -> None:
    """Add the document types and components of another application; `StoreError` if this one is not ours."""
    for tag, below in (("content", "documents"), ("container", ".")):
        home, guest = _cluster(services, tag, below), _cluster(addition, tag, below)
        known = {(one.tag, one.get("type"), one.get("id")) for one in home}
        home.extend(one for one in guest if (one.tag, one.get("type"), one.get("id")) not in known)


def _reduce(services: ElementTree.Element, name: str) -> bool:
    """Take an index out; gives whether another is left."""
    documents, container = _cluster(services, "content", "documents"), _cluster(services, "container", ".")
    for one in [one for one in documents if one.get("type") in (name, name + NOTES)]:
        documents.remove(one)
    for one in [one for one in container.findall("component") if one.get("id") == component_of(name)]:
        container.remove(one)
    return len(documents) > 0


def _cluster(services: ElementTree.Element, tag: str, below: str) -> ElementTree.Element:
    cluster = services.find(f"{tag}[@id='{APPLICATION}_{tag}']")
    found = None if cluster is None else cluster.find(below)
    if found is None:
        raise StoreError(
            f"the application that runs in Vespa has no <{tag} id='{APPLICATION}_{tag}'>: somebody else made it, "
            "expected one of Sightline's or none: write the package to a folder with "
            "sightline.stores.vespa.application_package, and merge its schemas into that application"
        )
    return found
