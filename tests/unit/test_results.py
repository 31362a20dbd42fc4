"""Pages of results: what a stranger's records hold does no harm in them."""

import re
from typing import Any

from sightline.results import Hits, Took, page
from sightline.types import Hit


def test_pages_link_to_nothing_that_runs_code_and_take_only_numbers_into_styles() -> None:
    uris = ["javascript://x%0aalert(1)", "file://evil.host/x.jpg", "data:text/html,x", "https://good.example/a.jpg"]
    evil: dict[str, Any] = {"width": "1;background:url(http://evil.example/x)", "height": 2}
    found = tuple(Hit(str(number), uri, 0.5, evil) for number, uri in enumerate(uris))
    html = page([Hits("a", "mini", Took(1.0, 1.0), found)], title="a")
    assert re.findall(r'href="([^"]*)"', html) == ["https://good.example/a.jpg"]
    assert "url(http://evil" not in html
    assert str(Hits("a", "mini", Took(1.0, 1.0), found))  # one such name does not stop the others
