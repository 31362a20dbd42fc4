"""A URL into an answer of its server, asked directly or through the proxy that the system names for it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

if TYPE_CHECKING:
    import urllib3


class Connections:
    """Pools of connections with the same `options`, those of urllib3's `PoolManager`; for many threads at once.

    Proxies are those of `http_proxy`, `https_proxy` and `no_proxy`, or of the system's settings, as for Python's own
    `urllib.request`.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._managers: dict[str, urllib3.PoolManager] = {}
        self._making = threading.Lock()

    def get(self, url: str, *, headers: dict[str, str] | None = None) -> urllib3.BaseHTTPResponse:
        """The answer, its body still to be read. Raises what urllib3 does."""
        return self._manager(_proxy_of(url)).request("GET", url, headers=headers, preload_content=False)

    def close(self) -> None:
        """Give the connections back."""
        for manager in self._managers.values():
            manager.clear()

    def _manager(self, proxy: str) -> urllib3.PoolManager:
        import urllib3  # 50 ms that folders do not need

        with self._making:
            if proxy not in self._managers:
                self._managers[proxy] = (
                    urllib3.ProxyManager(proxy, proxy_headers=_credentials(proxy), **self._options)
                    if proxy
                    else urllib3.PoolManager(**self._options)
                )
            return self._managers[proxy]


def told(error: object) -> str:
    """The end of what an HTTP client says of an error, without the objects and traces that its own text shows."""
    end = str(error).rpartition(": ")[2].strip("'\" ")
    return end if end.count("(") >= end.count(")") else end.rstrip("'\") ")


def _proxy_of(url: str) -> str:
    """The URL of the proxy for a URL, empty for none."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme, "")
    if not proxy or (parts.hostname and proxy_bypass(parts.netloc.rpartition("@")[2])):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _credentials(proxy: str) -> dict[str, str]:
    import urllib3
    from urllib3.util import parse_url

    auth = parse_url(proxy).auth
    return dict(urllib3.make_headers(proxy_basic_auth=unquote(auth))) if auth else {}
