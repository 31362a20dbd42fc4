"""The command serve: show an index as a web page and an HTTP API."""

import argparse
import os
import secrets
from pathlib import Path

from sightline.cli import options as cli
from sightline.cli.options import Commands, add_command, hub
from sightline.errors import StoreNotFound, UsageError, needing
from sightline.text import count


def add_commands(commands: Commands) -> None:
    """Add serve."""
    add = add_command(commands, serve, "index model").add_argument
    add("--compare", metavar="URL", type=cli.store_url, **cli.MANY, help="another index, shown side by side")
    add("--host", metavar="NAME", default="127.0.0.1", help="the address to listen on (default: this machine only)")
    add("--port", metavar="N", type=int, default=8000, help="the port (default: 8000)")
    add("--workers", metavar="N", type=cli.positive, default=1, help="processes that share the port (default: 1)")
    add("--api-key", metavar="FILE", help="keys that may search, one per line")
    add("--write-key", metavar="FILE", help="keys that may also upload and remove")
    add("--make-key", action="store_true", help="write a new key into these files where there is none yet, and show it")
    add("--read-only", action="store_true", help="refuse all uploads and removals")
    add("--uploads", metavar="DIR", help="where uploads are kept (default: INDEX.uploads)")
    add(
        "--root",
        metavar="DIR",
        **cli.MANY,
        help="a folder whose indexed pictures may be shown, beside the indexed folders",
    )
    add("--public-url", metavar="URL", default="", help="where people see the server behind a proxy, with its path")
    add(
        "--trusted-proxy",
        metavar="ADDRESS",
        **cli.MANY,
        help="the address or network of a proxy whose X-Forwarded-For and X-Forwarded-Proto count",
    )
    add("--cors", metavar="ORIGIN", **cli.MANY, help="a web site that may call the API")
    add(
        "--allow-url-queries",
        action="store_true",
        help="search by the URL of a picture, too: the server fetches it, from public addresses only",
    )
    add(
        "--rate",
        metavar="N",
        type=float,
        help="requests a second for each key (default: 100 with keys, else any number)",
    )
    add("--max-upload-mb", metavar="N", type=float, default=64, help="the largest request (default: 64)")
    add("--max-megapixels", metavar="N", type=float, default=100, help="the largest picture (default: 100)")


def serve(options: argparse.Namespace) -> int:
    """Show an index as a web page and an HTTP API.

    Examples:
      sightline serve                                    http://127.0.0.1:8000, for this machine only
      sightline serve --index photos.index --compare siglip.index
      sightline serve --host 0.0.0.0 --api-key readers.txt --write-key writers.txt
    """
    with needing("the server", "server"):
        from sightline.server.app import serve as run
    from sightline.server.settings import LOOPBACK, Limits, ServerSettings, check_address, check_public_url

    if options.make_key:
        _make_keys(options.api_key, options.write_key)
    read, write = _keys(options.api_key, "SIGHTLINE_API_KEY"), _keys(options.write_key, "SIGHTLINE_WRITE_KEY")
    settings = ServerSettings(
        indexes=(cli.index_url(options), *options.compare),
        model=cli.model_for(cli.index_url(options), options.model),
        hub=hub(),
        uploads=_folder(options.uploads),
        roots=tuple(filter(None, map(_folder, options.root))),
        read_keys=read,
        write_keys=write,
        read_only=options.read_only,
        hosts=tuple(dict.fromkeys((options.host, *LOOPBACK))),
        origins=tuple(options.cors),
        public_url=check_public_url(options.public_url) if options.public_url else "",
        trusted_proxies=tuple(map(_proxy, options.trusted_proxy)),
        requests_per_s=options.rate if options.rate is not None else 100.0 if read or write else 0.0,
        max_upload_bytes=int(options.max_upload_mb * 1e6),
        max_megapixels=options.max_megapixels,
        urls=Limits() if options.allow_url_queries else None,
    )
    check_address(options.host, settings)
    for url in settings.indexes:  # a wrong model is an error now, a missing index may still come
        with cli.open_at(url, settings.model) as index:
            try:
                print(f"{url}: {count(index.count(), 'picture')}, model {index.encoder.name}")
            except StoreNotFound:
                how = f"sightline index FOLDER --index {url}, or upload pictures on the page"
                print(f"{url} does not exist yet: {how}")
    shown = f"[{options.host}]" if ":" in options.host else options.host
    print(f"open {options.public_url or f'http://{shown}:{options.port}'} in a browser; Ctrl-C stops", flush=True)
    run(settings, host=options.host, port=options.port, workers=options.workers)
    return 0


def _make_keys(*files: str | None) -> None:
    """A key in each file that does not exist yet, for its owner's eyes."""
    if not any(files):
        raise UsageError("--make-key needs a file to write to: add --write-key FILE, --api-key FILE or both")
    for file in filter(None, files):
        try:
            descriptor = os.open(Path(file).expanduser(), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(f"cannot write a key into {file} ({error.strerror}): choose another place") from error
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(f"{(key := secrets.token_hex(24))}\n")
        print(f"new key, in {file}: {key}", flush=True)


def _keys(file: str | None, variable: str) -> tuple[str, ...]:
    """The keys of a variable and of a file: one a line, empty lines and # comments left out."""
    text = os.environ.get(variable, "")
    if file:
        try:
            text += "\n" + Path(file).expanduser().read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"cannot read the keys in {file} ({error}), expected a text file: check the path"
            ) from error
    keys = tuple(line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    if file and not keys:
        raise UsageError(f"no key in {file}: write a long random text into it, one per line")
    if short := [key for key in keys if len(key) < 8]:
        raise UsageError(f"a key has {len(short[0])} characters, expected at least 8: make it long and random")
    return keys


def _proxy(text: str) -> str:
    from ipaddress import ip_network

    try:
        ip_network(text)
    except ValueError as error:
        raise UsageError(f"--trusted-proxy is {text!r}, expected an address such as 127.0.0.1 or 10.0.0.0/8") from error
    return text


def _folder(text: str | None) -> Path | None:
    return Path(os.path.abspath(Path(text).expanduser())) if text else None  # noqa: PTH100
