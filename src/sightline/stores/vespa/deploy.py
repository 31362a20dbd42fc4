"""Deploying to a Vespa config server: an index added to, or taken from, the application that it runs."""

import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from vespa.package import ApplicationPackage

from sightline.errors import StoreError, StoreForbidden, StoreUnreachable, WebError
from sightline.stores.remote import retry
from sightline.stores.vespa.package import NOTES, merged_services, reduced_services

_TENANT = "/application/v2/tenant/default"
_ZIP = "application/zip"
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
            self._first(package)
            return
        session = self._session(active)
        services = self._call("GET", f"{session}/content/services.xml").decode()
        self._put(session, "services.xml", merged_services(services, package.services_to_text))
        for schema in package.schemas:
            self._put(session, f"schemas/{schema.name}.sd", schema.schema_to_text)
        if package.include_files:
            self._call("PUT", f"{session}/content/models/")
        for source, target in package.include_files:
            self._call("PUT", f"{session}/content/{target}", source.read_bytes())
        self._activate(session)

    def _first(self, package: ApplicationPackage) -> None:
        try:
            self._call("POST", f"{_TENANT}/prepareandactivate", package.to_zip().getvalue(), _ZIP)
        except _RefusedError as error:
            if self._active():  # another process was faster: its schemas must not be removed
                raise _RefusedError(_CONFLICT, str(error)) from error
            raise

    def _remove(self, name: str) -> None:
        active = self._active()
        if not active:
            return
        session = self._session(active)
        services = reduced_services(self._call("GET", f"{session}/content/services.xml").decode(), name)
        if not services:
            self._call("DELETE", f"{_TENANT}/application/default")
            return
        self._put(session, "services.xml", services)
        until = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
        allowed = f'<validation-overrides><allow until="{until}">schema-removal</allow></validation-overrides>'
        self._put(session, "validation-overrides.xml", allowed)
        for schema in (name, name + NOTES):
            self._call("DELETE", f"{session}/content/schemas/{schema}.sd")
        self._activate(session)

    def _active(self) -> str:
        """The URL of the application that runs, empty if none does."""
        running = json.loads(self._call("GET", f"{_TENANT}/application/"))
        return str(running[0]) if running else ""

    def _session(self, active: str) -> str:
        """A new session with the files of the application that runs."""
        return f"{_TENANT}/session/{self._json('POST', f'{_TENANT}/session?from={active}')['session-id']}"

    def _activate(self, session: str) -> None:
        self._call("PUT", f"{session}/prepared?applicationName=default")
        self._call("PUT", f"{session}/active")

    def _put(self, session: str, path: str, text: str) -> None:
        self._call("PUT", f"{session}/content/{path}", text.encode())

    def _json(self, method: str, path: str) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = json.loads(self._call(method, path))
        return answer

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
