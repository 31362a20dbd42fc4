"""Deploying to a Vespa config server: an index added to, or taken from, the application that it runs."""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

from vespa.package import ApplicationPackage

from sightline.errors import StoreError, StoreForbidden, StoreUnreachable, WebError
from sightline.stores.remote import retry
from sightline.stores.vespa.package import APPLICATION, NOTES, component_of

_TENANT = "/application/v2/tenant/default"
_TIMEOUT_S = 180  # preparing an application builds its models
_CONFLICT = 409
_log = logging.getLogger(__name__)


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

    def add(self, package: ApplicationPackage) -> None:
        """Deploy an index, beside those that run already; `StoreError` if the application is somebody else's."""
        _log.info("deploying the schemas %s to %s", ", ".join(one.name for one in package.schemas), self._root)
        self._retried(lambda: self._add(package))

    def remove(self, name: str) -> None:
        """Remove an index and its documents; the application too if no other index is left."""
        self._retried(lambda: self._remove(name))

    def _add(self, package: ApplicationPackage) -> None:
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
