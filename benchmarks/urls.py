"""A table of URLs, a fifth of them bad, indexed from servers of this machine: beside one at a time, with flat memory.

python -m benchmarks urls [--count N] [--alone N] [--hosts N] [--wait MS] [--model NAME]
"""

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from subprocess import PIPE, Popen
from sys import executable, stdin, stdout
from threading import Event, Thread

import urllib3
from tests.pages import web
from tests.pictures import encoded, scene

from sightline.encoders.base import load_encoder
from sightline.errors import SightlineError
from sightline.images.read import open_picture
from sightline.index import Index
from sightline.sources.base import Opening, open_source

BAD = ("dead", "loop", "page", "mislabelled", "cut")
GOOD = ("ok", "ok", "ok", "ok", "ok", "ok", "ok", "ok", "ok", "moved", "busy", "slow")
REASONS = {
    "dead": "answers 404",
    "loop": "too many redirects",
    "page": "gives text/html",
    "mislabelled": "an HTML page",
    "cut": "broke off",
}
_DIFFERENT = 500  # pictures


def main() -> None:
    """Print what became of the URLs, the rate, the ratio and the memory."""
    if os.environ.get("BENCHMARK_SERVES"):
        serve(float(os.environ["BENCHMARK_SERVES"]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--alone", type=int, default=300, help="URLs of the loop that takes one at a time")
    parser.add_argument("--hosts", type=int, default=16)
    parser.add_argument("--wait", type=float, default=50, help="ms before each answer, as a server far away")
    parser.add_argument("--model", default="pixels")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, servers(options.hosts, options.wait) as hosts:
        urls = [url_of(number, hosts) for number in range(options.count)]
        # As often as in the whole, whatever the length of the part: every kind in its order.
        alone_s = one_at_a_time(urls[: options.alone], options.model)
        print(f"one at a time: {options.alone / alone_s:.1f} URLs/s")
        together_s = together(urls, options.model, Path(scratch))
        print(f"sightline:     {options.count / together_s:.1f} URLs/s")
        print(f"ratio: {options.count / together_s / (options.alone / alone_s):.1f}")


def url_of(number: int, hosts: list[str]) -> str:
    """Every fifth is bad, hosts in turn."""
    kind = BAD[number // 5 % len(BAD)] if number % 5 == 4 else GOOD[number % len(GOOD)]
    return f"{hosts[number * 7 % len(hosts)]}/{kind}/{number}"


def one_at_a_time(urls: list[str], model: str) -> float:
    """The loop of the tutorials: ask, decode, encode, and drop what fails without asking again; gives the seconds."""
    encoder = load_encoder(model)
    pool = urllib3.PoolManager(retries=urllib3.Retry(0, redirect=5), timeout=15)
    began = time.monotonic()
    for url in urls:
        try:
            picture = open_picture(pool.request("GET", url).data, image_size=encoder.image_size)
        except (SightlineError, urllib3.exceptions.HTTPError):
            continue
        encoder.encode_images(encoder.preprocess(picture.image)[None])
    return time.monotonic() - began


def together(urls: list[str], model: str, scratch: Path) -> float:
    """Index them all; gives the seconds. Every good one must be there, and every bad one with its reason."""
    table = scratch / "urls.csv"
    table.write_text("url,caption\n" + "".join(f"{url},{number}\n" for number, url in enumerate(urls)), "utf-8")
    with Index(str(scratch / "a.index"), model=model) as index, memory() as sizes:
        began = time.monotonic()
        summary = index.add(open_source(table, Opening()))
        seconds = time.monotonic() - began
        bad = [url for url in urls if url.split("/")[3] in BAD]
        failures = index.failures()
        right = sum(REASONS[failure.uri.split("/")[3]] in failure.reason for failure in failures)
        good = len(urls) - len(bad)
        print(
            f"good ones indexed: {index.count():,} of {good:,}; bad ones with their reason: {right:,} of {len(bad):,}"
        )
        print(f"failures by kind: {dict(Counter(failure.uri.split('/')[3] for failure in failures))}")
        assert (index.count(), right, summary.failed) == (good, len(bad), len(bad))
    half = len(sizes) // 2
    first, second = max(sizes[1 : half + 1]), max(sizes[half:])
    print(f"own memory at most: {first:.0f} MB in the first half, {second:.0f} MB in the second")
    return seconds


@contextmanager
def memory() -> Iterator[list[float]]:
    """The memory in MB that is the process's own (not the index's mapped files), twice a second."""
    sizes, is_over = list[float](), Event()

    def watch() -> None:
        while not is_over.wait(0.5):
            lines = Path("/proc/self/status").read_text().splitlines()
            sizes.extend(int(line.split()[1]) / 1000 for line in lines if line.startswith("RssAnon"))

    thread = Thread(target=watch, daemon=True)
    thread.start()
    yield sizes
    is_over.set()
    thread.join()


@contextmanager
def servers(count: int, wait_ms: float) -> Iterator[list[str]]:
    """One process with one server, reached under many names: a few connections go to each host, not to each machine."""
    environment = {**os.environ, "BENCHMARK_SERVES": str(wait_ms / 1e3)}
    with Popen([executable, "-m", "benchmarks.urls"], stdin=PIPE, stdout=PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        port = process.stdout.readline().strip()
        try:
            yield [f"http://127.0.0.{number}:{port}" for number in range(1, count + 1)]
        finally:
            process.stdin.close()


def serve(wait_s: float) -> None:
    """Answer until the other end is closed."""
    with ExitStack() as stack:
        served = stack.enter_context(web(pictures(wait_s), address="0.0.0.0"))
        stdout.write(f"{served.url.rpartition(':')[2]}\n")
        stdout.flush()
        stdin.read()


def pictures(wait_s: float) -> Callable[[str], bytes]:
    """What lies at a path, after a while."""

    @cache
    def picture(number: int) -> bytes:
        return encoded(scene(number, (480, 360)), "JPEG")

    def answer(path: str) -> bytes:
        time.sleep(wait_s)
        return picture(int(path.split("/")[2]) % _DIFFERENT)

    return answer


if __name__ == "__main__":
    main()
