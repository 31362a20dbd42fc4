"""The page as people use it: real Chromium, a real server, a real index."""

import base64
import csv
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.pictures import encoded, scene
from tests.serving import Server, serving

from sightline.evaluate.judgements import load
from sightline.index import Index
from sightline.types import record_id

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None or sys.platform == "win32":
    pytest.skip("no Chromium on this machine: apt-get install chromium", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")

Page = Any
COUNT = 130
PHONE = {"width": 390, "height": 844}
PASTE = """async (data) => {
  const bytes = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], "clip.png", {type: "image/png"}));
  NAME.dispatchEvent(EVENT);
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "holiday").mkdir()
    for number in range(COUNT):
        size = [(320, 240), (240, 320), (480, 200), (300, 300)][number % 4]
        place = folder / ("holiday" if number % 5 == 0 else "")
        scene(number, size).save(place / f"scene {number}.{'png' if number % 10 == 0 else 'jpg'}")
    (folder / "broken.jpg").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def server(folder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("index")
    for name, model in (("photos", "mini"), ("other", "pixels")):
        with Index(str(place / f"{name}.index"), model=model) as index:
            index.add(folder)
    with serving(place / "photos.index", "--compare", str(place / "other.index"), cache=cache) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def new_page(browser: Any, server: Server) -> Iterator[Callable[..., Page]]:
    """Opens pages; at the end there must have been no error in any console."""
    contexts, errors = [], list[str]()

    def opened(path: str = "/", *, at: Server = server, **options: Any) -> Page:
        context = browser.new_context(reduced_motion="reduce", accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(8000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type in ("error", "warning") else None)
        page.goto(at.url + path)
        return page

    opened.errors = errors  # type: ignore[attr-defined]
    yield opened
    for context in contexts:
        context.close()
    assert errors == []


def tiles(page: Page) -> Any:
    return page.locator(".tile")


def settled(page: Page, text: str) -> None:
    """Until the line above the results says so."""
    page.wait_for_function(
        """text => document.querySelector('#summary').textContent.includes(text)
                && document.querySelector('.column') && !document.querySelector('.busy')""",
        arg=text,
    )


def asked(page: Page, part: str) -> None:
    """Until the address holds that and the answer is there."""
    page.wait_for_function("part => decodeURIComponent(location.search).includes(part)", arg=part)
    page.wait_for_function("() => !document.querySelector('.busy')")


def address(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def ids(page: Page) -> list[str]:
    """The ids of the pictures shown, in order."""
    found = tiles(page).evaluate_all("all => all.map(each => each.querySelector('img')?.getAttribute('src') ?? '')")
    return [source.split("/")[3] for source in found if source]


def id_of(path: Path) -> str:
    return record_id(path.as_uri())


def test_typing_searches_and_the_address_keeps_it(new_page: Callable[..., Page], server: Server) -> None:
    page = new_page()
    settled(page, f"{COUNT} pictures")
    page.keyboard.press("/")
    page.keyboard.type("a red circle", delay=15)
    asked(page, "a+red+circle")
    settled(page, f"{COUNT} results")
    expected = [hit["id"] for hit in server.ask("/api/search?q=a+red+circle&k=5").json["hits"]]
    assert ids(page)[:5] == expected
    assert address(page) == {"q": ["a red circle"]}
    page.reload()
    settled(page, f"{COUNT} results")
    assert ids(page)[:5] == expected
    assert page.input_value("#words") == "a red circle"
    page.go_back()
    settled(page, f"{COUNT} pictures")
    assert page.input_value("#words") == ""


@pytest.mark.parametrize("how", ["paste", "drop"])
def test_a_picture_can_be_pasted_and_dropped(new_page: Callable[..., Page], folder: Path, how: str) -> None:
    page = new_page()
    event = {
        "paste": "new ClipboardEvent('paste', {clipboardData: files, bubbles: true, cancelable: true})",
        "drop": "new DragEvent('drop', {dataTransfer: files, bubbles: true, cancelable: true})",
    }[how]
    script = PASTE.replace("NAME", "document.body").replace("EVENT", event)
    page.evaluate(script, base64.b64encode((folder / "scene 7.jpg").read_bytes()).decode())
    page.wait_for_selector(".chip img")
    settled(page, "results")
    assert ids(page)[0] == id_of(folder / "scene 7.jpg")
    page.reload()
    settled(page, "results")
    assert ids(page)[0] == id_of(folder / "scene 7.jpg")


def test_a_picture_can_be_picked(new_page: Callable[..., Page], folder: Path) -> None:
    page = new_page()
    page.set_input_files("#file", str(folder / "scene 8.jpg"))
    page.wait_for_selector(".chip img")
    settled(page, "results")
    assert ids(page)[0] == id_of(folder / "scene 8.jpg")


def test_chips_show_and_change_the_query(new_page: Callable[..., Page]) -> None:
    page = new_page("/?q=circle")
    settled(page, "results")
    page.fill("#words", "circle - 2:red")
    page.press("#words", "Enter")
    page.wait_for_selector(".chip.minus")
    assert address(page) == {"q": ["circle"], "t": ["-2:text:red"]}
    assert page.input_value("#words") == "circle"
    page.get_by_label("Weight of red").fill("1.5")
    page.get_by_label("Weight of red").press("Enter")
    page.wait_for_function("() => location.search.includes('t=1.5')")
    page.get_by_label("Words of this part").fill("blue")
    page.get_by_label("Words of this part").press("Enter")
    page.wait_for_function("() => location.search.includes('blue')")
    page.get_by_label("Remove blue from the query").click()
    page.wait_for_function("() => !location.search.includes('t=')")
    assert page.locator(".chip").count() == 0


def test_filters_narrow_and_can_be_cleared(new_page: Callable[..., Page], folder: Path) -> None:
    page = new_page("/?q=circle")
    page.get_by_label("Filters", exact=True).first.click()
    page.get_by_role("button", name=re.compile("^png")).click()
    settled(page, f"{COUNT // 10} results")
    page.get_by_label("Folder", exact=True).last.select_option((folder / "holiday").as_uri())
    settled(page, f"{COUNT // 10} results")
    page.get_by_role("button", name=re.compile("^png")).click()
    settled(page, f"{COUNT // 5} results")
    page.get_by_label("Longer side").last.select_option("1000")
    page.get_by_role("heading", name="No results").wait_for()
    page.get_by_role("button", name="Clear the filters").click()
    settled(page, f"{COUNT} results")
    page.get_by_label("To", exact=True).fill("2001-01-01")
    page.get_by_label("To", exact=True).dispatch_event("change")
    page.get_by_role("heading", name="No results").wait_for()


def test_the_threshold_says_how_many_remain(new_page: Callable[..., Page], server: Server) -> None:
    page = new_page("/?q=a+red+circle")
    page.wait_for_function("() => !document.querySelector('#threshold').disabled")
    page.evaluate("""() => { const it = document.querySelector('#threshold'); it.value = 700;
        it.dispatchEvent(new Event('input', {bubbles: true})); }""")
    page.wait_for_function("() => location.search.includes('least=')")
    least = float(address(page)["least"][0])
    hits = server.ask(f"/api/search?q=a+red+circle&k=200&min_score={least}").json["hits"]
    assert 0 < len(hits) < COUNT
    assert f"{len(hits)} remain" in page.inner_text("#threshold-text")
    assert tiles(page).count() == len(hits)
    page.reload()
    settled(page, f"{len(hits)} results")


def sides(server: Server, words: str) -> tuple[list[str], list[str]]:
    """The ids that belong above and below the line: the likely ones of both pages of results come first."""
    pages = [
        server.ask(f"/api/search?q={words}&k={k}&offset={offset}").json["hits"] for k, offset in ((60, 0), (200, 60))
    ]
    hits = [hit for page in pages for hit in page]
    return [hit["id"] for hit in hits if hit["is_likely"]], [hit["id"] for hit in hits if not hit["is_likely"]]


@pytest.mark.parametrize("width", [390, 1600])
def test_what_is_probably_not_meant_stands_below_a_line(
    new_page: Callable[..., Page], server: Server, width: int
) -> None:
    above, below = sides(server, "a+red+circle")
    assert min(len(above), len(below)) > 20
    page = new_page("/?q=a+red+circle", viewport={"width": width, "height": 8000})
    heading = page.get_by_role("heading", name="Low confidence")
    heading.wait_for()
    settled(page, f"{len(above)} likely · {COUNT} results")
    assert ids(page) == above + below
    in_order = page.locator(".grid").evaluate(
        "it => [...it.children].map((each) => each.querySelectorAll('.tile').length)"
    )
    assert in_order == [len(above), 0, len(below)]
    bottom = tiles(page).nth(len(above) - 1).bounding_box()
    line, top = heading.bounding_box(), tiles(page).nth(len(above)).bounding_box()
    assert bottom["y"] + bottom["height"] < line["y"] < line["y"] + line["height"] <= top["y"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_nothing_likely_is_said_before_the_pictures(new_page: Callable[..., Page], server: Server) -> None:
    page = new_page("/?q=a+giraffe")
    heading = page.get_by_role("heading", name="No confident match. Closest results:")
    heading.wait_for()
    settled(page, "none likely")
    assert ids(page)[:5] == [hit["id"] for hit in server.ask("/api/search?q=a+giraffe&k=5").json["hits"]]
    line, top = heading.bounding_box(), tiles(page).first.bounding_box()
    assert line["y"] + line["height"] <= top["y"]
    page.fill("#words", "")
    settled(page, f"{COUNT} pictures")
    assert heading.is_hidden()


def test_a_picture_draws_no_line(new_page: Callable[..., Page], folder: Path) -> None:
    page = new_page(f"/?t=1:id:{id_of(folder / 'scene 3.jpg')}")
    settled(page, f"{COUNT} results")
    assert "likely" not in page.inner_text("#summary")
    assert page.locator(".parting").is_hidden()


def test_the_keyboard_walks_over_the_line_as_pages_come(new_page: Callable[..., Page], server: Server) -> None:
    above, below = sides(server, "a+red+circle")
    page = new_page("/?q=a+red+circle", viewport={"width": 800, "height": 500})
    settled(page, "likely")
    page.keyboard.press("ArrowDown")
    for position in range(1, len(above) + 10):
        page.keyboard.press("ArrowRight")
        page.wait_for_function(
            "at => document.activeElement.closest('.cell')?.dataset.position === String(at)", arg=position
        )
    assert page.evaluate("document.activeElement.closest('[role=list]').previousElementSibling.tagName") == "H2"
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail[open]")
    assert address(page)["open"] == [below[9]]
    assert "likely from" in page.inner_text("#detail dl")


def test_a_threshold_above_the_line_takes_the_line_away(new_page: Callable[..., Page], server: Server) -> None:
    hits = server.ask("/api/search?q=a+red+circle&k=60").json["hits"]
    least = hits[20]["score"]
    left = [hit["id"] for hit in hits if hit["score"] >= least]
    assert all(hit["is_likely"] for hit in hits[: len(left)])
    page = new_page(f"/?q=a+red+circle&least={least}", viewport={"width": 800, "height": 5000})
    settled(page, f"{len(left)} likely · {len(left)} results")
    assert ids(page) == left
    assert page.locator(".parting").is_hidden()
    page.evaluate("""() => { const it = document.querySelector('#threshold'); it.value = 0;
        it.dispatchEvent(new Event('input', {bubbles: true})); }""")
    page.get_by_role("heading", name="Low confidence").wait_for()


def test_a_hit_opens_and_leads_on(new_page: Callable[..., Page], folder: Path) -> None:
    page = new_page("/?q=a+red+circle")
    settled(page, "results")
    shown = ids(page)
    tiles(page).nth(1).click()
    page.wait_for_selector("#detail[open]")
    assert address(page)["open"] == [shown[1]]
    details = page.inner_text("#detail dl")
    assert "scene" in details
    assert re.search(r"\d+ × \d+", details)
    page.keyboard.press("ArrowRight")
    page.wait_for_function("id => location.search.includes(id)", arg=shown[2])
    page.get_by_role("button", name="More like this").click()
    page.wait_for_selector("#detail", state="hidden")
    page.wait_for_selector(".chip img")
    page.wait_for_function("id => document.querySelector('.tile img').src.includes(id)", arg=shown[2])
    assert address(page) == {"t": [f"1:id:{shown[2]}"]}
    tiles(page).nth(3).click()
    page.get_by_role("button", name="Less of this").click()
    page.wait_for_selector(".chip.minus img")
    page.go_back()
    page.wait_for_function("() => !document.querySelector('.chip.minus')")


@pytest.mark.parametrize("width", [390, 820, 1440])
def test_arrows_lead_on_as_often_as_they_are_pressed(new_page: Callable[..., Page], width: int) -> None:
    page = new_page("/?q=a+red+circle", viewport={"width": width, "height": 844})
    settled(page, "results")
    shown = ids(page)
    tiles(page).first.click()
    page.wait_for_selector("#detail[open] .stage img")
    for at in range(1, 11):
        page.keyboard.press("ArrowRight")
        assert address(page)["open"] == [shown[at]]
    page.get_by_label("Previous picture").click()
    page.keyboard.press("ArrowLeft")
    assert address(page)["open"] == [shown[8]]
    page.keyboard.press("Home")
    assert address(page)["open"] == [shown[0]]
    assert not page.get_by_label("Previous picture").is_visible()
    page.keyboard.press("ArrowRight")
    assert address(page)["open"] == [shown[1]]
    page.keyboard.press("End")
    assert address(page)["open"] != [shown[1]]
    page.keyboard.press("-")
    page.wait_for_selector(".chip.minus img")


def scale_of(page: Page) -> float:
    return float(page.evaluate("new DOMMatrix(getComputedStyle(document.querySelector('.stage img')).transform).a"))


def test_a_picture_comes_closer_and_moves(new_page: Callable[..., Page]) -> None:
    page = new_page("/?q=a+red+circle")
    settled(page, "results")
    shown = ids(page)
    tiles(page).first.click()
    page.wait_for_selector("#detail[open] .stage img")
    assert scale_of(page) == 1
    page.locator(".stage img").dblclick()
    assert scale_of(page) == 2.5
    page.keyboard.press("ArrowRight")  # moves the picture now
    assert address(page)["open"] == [shown[0]]
    page.keyboard.press("Escape")
    assert scale_of(page) == 1
    assert page.locator("#detail[open]").count() == 1
    page.locator(".stage img").hover()
    page.mouse.wheel(0, -300)
    page.wait_for_function("() => document.querySelector('.stage.closer')")
    assert scale_of(page) > 1.5
    page.keyboard.press("z")
    page.keyboard.press("ArrowRight")
    assert address(page)["open"] == [shown[1]]
    assert scale_of(page) == 1
    page.keyboard.press("f")
    page.wait_for_function("() => document.fullscreenElement")
    page.keyboard.press("f")
    page.wait_for_function("() => !document.fullscreenElement")
    page.keyboard.press("Escape")
    page.wait_for_selector("#detail", state="hidden")


def test_two_fingers_bring_a_picture_closer_and_one_leads_on(new_page: Callable[..., Page]) -> None:
    page = new_page("/?q=a+red+circle", viewport=PHONE, has_touch=True)
    settled(page, "results")
    shown = ids(page)
    tiles(page).first.click()
    page.wait_for_selector("#detail[open] .stage img")
    touch = page.context.new_cdp_session(page)

    def fingers(kind: str, *places: tuple[int, int]) -> None:
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in places]})

    fingers("touchStart", (300, 200))
    fingers("touchMove", (200, 200))
    fingers("touchMove", (100, 200))
    fingers("touchEnd")
    page.wait_for_function("id => location.search.includes(id)", arg=shown[1])
    fingers("touchStart", (180, 200), (210, 200))
    fingers("touchMove", (140, 200), (250, 200))
    fingers("touchMove", (100, 200), (290, 200))
    fingers("touchEnd")
    assert scale_of(page) > 2
    assert address(page)["open"] == [shown[1]]


def test_the_neighbours_of_a_picture_are_loaded_before_they_are_asked_for(new_page: Callable[..., Page]) -> None:
    page = new_page("/?q=a+red+circle")
    settled(page, "results")
    shown = ids(page)
    with page.expect_request(lambda request: shown[2] in request.url and "size=1280" in request.url):
        tiles(page).nth(1).click()


def test_what_is_typed_anywhere_is_searched(new_page: Callable[..., Page]) -> None:
    page = new_page()
    settled(page, "pictures")
    page.keyboard.type("fish")
    asked(page, "q=fish")
    assert page.input_value("#words") == "fish"
    assert page.locator("dialog[open], #filters:not([hidden])").count() == 0
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")  # to the box
    assert page.evaluate("document.activeElement.id") == "words"
    assert page.input_value("#words") == "fish"
    page.keyboard.press("Escape")
    settled(page, "pictures")
    page.get_by_role("button", name="Undo").click()
    asked(page, "q=fish")
    assert page.input_value("#words") == "fish"


def test_a_part_with_a_minus_is_taken_away_while_it_is_typed(new_page: Callable[..., Page], server: Server) -> None:
    page = new_page("/?q=circle+-red")
    settled(page, "results")
    hits = server.ask("/api/search", {"text": "circle - red", "k": 10}).json["hits"]
    assert ids(page)[:10] == [hit["id"] for hit in hits]


def test_focus_stays_where_it_is_while_things_change(new_page: Callable[..., Page]) -> None:
    page = new_page("/?view=status")
    page.wait_for_selector("#status .card")
    page.get_by_text("picture could not be read").first.click()
    page.locator("#status").get_by_label("Close").focus()
    page.wait_for_timeout(5000)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Close"
    assert page.locator("#status details[open]").count() == 1
    page.keyboard.press("Escape")
    page.goto(page.url.partition("?")[0] + "?q=circle&t=1:text:red&panel=1")
    settled(page, "results")
    weight = page.get_by_label("Weight of red")
    weight.focus()
    for _ in range(3):
        page.keyboard.press("ArrowUp")
    asked(page, "2.5:text:red")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Weight of red"
    pill = page.locator("#filters .pill").first
    pill.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.activeElement.getAttribute('aria-pressed') === 'true'")
    assert page.evaluate("document.activeElement.className") == "pill"


def test_a_shared_status_view_shows_the_status(new_page: Callable[..., Page]) -> None:
    page = new_page("/?view=status")
    for _ in range(3):
        page.wait_for_selector("#status .card")
        assert "does not answer" not in page.inner_text("#status")
        page.reload()


def on_top(page: Page) -> bool:
    return bool(
        page.evaluate("""() => {
            const box = document.querySelector('#toast').getBoundingClientRect();
            const found = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
            return Boolean(found && document.querySelector('#toast').contains(found)); }""")
    )


@pytest.mark.parametrize("path", ["/", "/?view=status", "/?open="])
def test_a_message_lies_above_every_dialog_until_it_is_dismissed(
    new_page: Callable[..., Page], folder: Path, path: str
) -> None:
    page = new_page(path + (id_of(folder / "scene 3.jpg") if path.endswith("=") else ""))
    settled(page, "pictures")
    if path != "/":
        page.wait_for_selector("dialog[open] button:visible")
    page.evaluate("""async () => {
        const { toast } = await import('./static/dom.js');
        toast('It matters', { stays: true }); }""")
    page.wait_for_timeout(3000)
    assert on_top(page)
    page.get_by_label("Dismiss").click()
    assert not page.locator("#toast").is_visible()


def test_a_picture_that_is_dragged_over_a_dialog_shows_where_it_goes(
    new_page: Callable[..., Page], folder: Path
) -> None:
    page = new_page(f"/?open={id_of(folder / 'scene 3.jpg')}")
    page.wait_for_selector("#detail[open] .actions")
    page.evaluate("""() => { const files = new DataTransfer();
        files.items.add(new File(['x'], 'x.png', {type: 'image/png'}));
        window.dispatchEvent(new DragEvent('dragenter', {dataTransfer: files})); }""")
    assert page.locator("#detail #drop:popover-open").is_visible()
    page.evaluate("window.dispatchEvent(new DragEvent('dragleave'))")
    assert not page.locator("#drop").is_visible()


def test_captions_are_told_apart_and_a_vanished_picture_is_said(
    new_page: Callable[..., Page], tmp_path: Path, cache: Path
) -> None:
    for number in range(3):
        scene(number).save(tmp_path / f"{number}.png")
    rows = [f"{number}.png\t{text} {number}\n" for number in range(3) for text in ("a dog", "שלום", "snow")]
    (tmp_path / "captions.tsv").write_text("image\tcaption\n" + "".join(rows))
    with Index(str(tmp_path / "some.index"), model="pixels") as index:
        index.add(tmp_path / "captions.tsv")
    (tmp_path / "1.png").unlink()
    with serving(tmp_path / "some.index", cache=cache) as running:
        page = new_page(f"/?open={id_of(tmp_path / '0.png')}", at=running)
        page.wait_for_selector("#detail[open] dl")
        assert page.inner_text("#detail h2") == "a dog 0"
        assert page.locator("#detail dd[dir] > div").all_inner_texts() == ["שלום 0", "snow 0"]
        page.goto(f"{running.url}/?open={id_of(tmp_path / '1.png')}")
        page.get_by_text("its file is not available").wait_for()
        page.keyboard.press("Escape")
        page.close()  # before the server ends, which a page would notice
        errors = new_page.errors  # type: ignore[attr-defined]
        assert all("410" in error for error in errors), errors
        errors.clear()


def test_an_empty_page_fills_while_pictures_come(
    new_page: Callable[..., Page], folder: Path, tmp_path: Path, cache: Path
) -> None:
    with serving(tmp_path / "new.index", cache=cache, is_ready=False) as running:
        page = new_page("/", at=running)
        page.get_by_role("heading", name="No pictures yet").wait_for()
        with Index(str(tmp_path / "new.index"), model="mini") as index:
            index.add(folder / "holiday")
        page.wait_for_function("() => document.querySelectorAll('.tile').length > 20", timeout=20_000)
        page.close()
        new_page.errors.clear()  # type: ignore[attr-defined]  # answers of 503 until it was there


def test_tiles_are_as_sharp_as_the_screen(new_page: Callable[..., Page]) -> None:
    page = new_page("/?q=a+red+circle", device_scale_factor=2)
    settled(page, "results")
    sizes = tiles(page).evaluate_all("all => all.map(each => each.querySelector('img').src.match(/size=(\\d+)/)[1])")
    assert "640" in sizes
    assert not page.evaluate("document.querySelector('.tile img').draggable")


def test_the_original_can_be_downloaded(new_page: Callable[..., Page], folder: Path) -> None:
    page = new_page(f"/?open={id_of(folder / 'scene 3.jpg')}")
    page.wait_for_selector("#detail[open] .actions")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "scene 3.jpg"
    assert Path(download.value.path()).read_bytes() == (folder / "scene 3.jpg").read_bytes()


def test_indexes_stand_side_by_side_and_judgements_can_be_exported(new_page: Callable[..., Page]) -> None:
    page = new_page("/?q=a+red+circle")
    settled(page, "results")
    page.wait_for_selector("#show-compare")
    page.locator("#show-compare").press("Enter")
    page.wait_for_function("() => document.querySelectorAll('.column').length === 2")
    page.get_by_text("This model has no text encoder").wait_for()
    first = page.locator(".column").first
    first.locator(".mark-good").nth(0).click(force=True)
    first.locator(".mark-bad").nth(1).click(force=True)
    settled(page, "2 judgements")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    rows = list(csv.DictReader(Path(download.value.path()).read_text("utf-8").splitlines(), delimiter="\t"))
    assert [(row["query"], row["grade"]) for row in rows] == [("a red circle", "1"), ("a red circle", "0")]
    assert all(Path(row["image"]).is_file() for row in rows)


def test_what_is_exported_can_be_evaluated(new_page: Callable[..., Page], tmp_path: Path) -> None:
    page = new_page("/?q=a+red+circle&compare=1")
    page.wait_for_function("() => document.querySelectorAll('.column').length === 2")
    first = page.locator(".column").first
    first.locator(".mark-good").nth(0).click(force=True)
    first.locator(".mark-bad").nth(1).click(force=True)
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    download.value.save_as(tmp_path / "judgements.tsv")
    read = load(tmp_path / "judgements.tsv")
    assert (read.queries, len(read.images), read.missing) == (["a red circle"], 2, 0)
    assert read.grades.tolist() == [1.0]
    page.goto(page.url.replace("a+red+circle", "&t=-1:text:dog"))
    page.locator(".column").first.locator(".mark-good").nth(0).click(force=True)
    page.get_by_text("Marks belong to words alone").wait_for()


def test_a_shared_address_opens_all_that_it_names(new_page: Callable[..., Page]) -> None:
    page = new_page("/?q=a+red+circle&compare=1&fold=0.98&panel=1&view=status")
    page.wait_for_selector("#status[open] .card")
    assert page.locator(".column").count() == 2
    assert page.locator("#show-compare").get_attribute("aria-pressed") == "true"
    assert page.input_value("#fold") == "0.98"
    assert page.is_visible("#filters")
    page.keyboard.press("Escape")
    page.wait_for_function("() => !location.search.includes('view')")
    page.go_back()
    page.wait_for_selector("#status[open]")
    page.go_forward()
    page.wait_for_selector("#status", state="hidden")
    wide = page.locator(".column").evaluate_all("all => all.map(each => each.getBoundingClientRect().toJSON())")
    assert wide[0]["top"] == wide[1]["top"]


def test_columns_stand_side_by_side_on_a_phone(new_page: Callable[..., Page]) -> None:
    page = new_page("/?q=a+red+circle&compare=1", viewport=PHONE, has_touch=True)
    page.wait_for_function("() => document.querySelectorAll('.column').length === 2")
    settled(page, "")
    left, right = page.locator(".column").evaluate_all("all => all.map(each => each.getBoundingClientRect().toJSON())")
    assert left["top"] == right["top"]
    assert left["right"] <= right["left"]
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_filters_in_use_are_seen_and_dropped_while_the_panel_is_closed(new_page: Callable[..., Page]) -> None:
    page = new_page("/?q=circle&f.format=%22png%22&pixels=1000")
    page.get_by_role("heading", name="No results").wait_for()
    assert page.is_visible("#show-filters .dot")
    page.get_by_label("Drop the filter 1,000 pixels or more").click()
    settled(page, f"{COUNT // 10} results")
    page.get_by_label("Drop the filter png").click()
    settled(page, f"{COUNT} results")
    assert page.is_hidden("#show-filters .dot")


def test_back_and_reload_come_back_to_the_place(new_page: Callable[..., Page]) -> None:
    page = new_page("/?q=circle", viewport={"width": 800, "height": 600})
    settled(page, "results")
    page.wait_for_function("() => document.documentElement.scrollHeight > 1800")
    for _ in range(12):
        page.mouse.wheel(0, 200)
        page.wait_for_timeout(30)
    left = page.evaluate("scrollY")
    assert left > 1500
    page.evaluate("""() => { const fold = document.querySelector('#fold'); fold.value = '0.85';
        fold.dispatchEvent(new Event('change', {bubbles: true})); }""")
    asked(page, "fold=0.85")
    page.wait_for_function("() => scrollY === 0")
    page.go_back()
    page.wait_for_function("() => !location.search.includes('fold')")
    page.wait_for_function("left => Math.abs(scrollY - left) < 3", arg=left)
    page.reload()
    page.wait_for_function("left => Math.abs(scrollY - left) < 3", arg=left)


def test_near_duplicates_fold_as_far_as_is_chosen(new_page: Callable[..., Page], server: Server) -> None:
    page = new_page("/?q=a+red+circle")
    settled(page, "results")
    page.select_option("#fold", "0.85")
    asked(page, "fold=0.85")
    folded = {"text": "a red circle", "k": 60, "group_duplicates": True, "duplicate_score": 0.85}
    expected, unfolded = (
        [hit["id"] for hit in server.ask("/api/search", query).json["hits"]]
        for query in (folded, folded | {"group_duplicates": False})
    )
    assert ids(page)[:3] == expected[:3]
    assert expected != unfolded
    page.select_option("#fold", "0")
    page.wait_for_function("() => !location.search.includes('fold')")


def test_everything_works_by_keyboard_alone(new_page: Callable[..., Page]) -> None:
    page = new_page()
    settled(page, "pictures")
    press = page.keyboard.press
    press("/")
    page.keyboard.type("a red circle")
    asked(page, "a+red+circle")
    settled(page, "results")
    shown = ids(page)
    press("ArrowDown")
    press("ArrowRight")
    assert page.evaluate("document.activeElement.className") == "tile"
    press("Enter")
    page.wait_for_selector("#detail[open]")
    assert address(page)["open"] == [shown[1]]
    press("Escape")
    page.wait_for_selector("#detail", state="hidden")
    page.wait_for_function("() => document.activeElement.className === 'tile'")
    press("+")
    page.wait_for_selector(".chip img")
    assert address(page)["t"] == [f"1:id:{shown[1]}"]
    page.locator("#show-filters").press("Enter")
    page.wait_for_selector("#filters:not([hidden])")
    page.locator("#show-status").press("Enter")
    page.wait_for_selector("#status[open]")
    press("Escape")
    press("?")
    page.wait_for_selector("#help[open]")
    press("Escape")
    page.locator("body").focus()
    page.evaluate("document.activeElement.blur()")
    press("Escape")
    settled(page, "pictures")


def test_status_tells_and_takes_pictures(new_page: Callable[..., Page], tmp_path: Path, cache: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "broken.jpg").write_text("not a picture")
    with Index(str(tmp_path / "new.index"), model="pixels") as index:
        index.add(tmp_path / "pictures")
    with serving(tmp_path / "new.index", cache=cache) as running:
        page = new_page("/", at=running)
        page.get_by_role("heading", name="No pictures yet").wait_for()
        page.get_by_label("Status of the index").click()
        page.get_by_text("1 picture could not be read").click()
        page.get_by_text("not a picture but text").wait_for()
        scene(5).save(tmp_path / "pictures" / "broken.jpg")
        page.get_by_role("button", name="Try them again").click()
        page.get_by_text("Every picture that was offered is indexed.").wait_for()
        (tmp_path / "new.png").write_bytes(encoded(scene(6), "PNG"))
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Add pictures").click()
        chooser.value.set_files(str(tmp_path / "new.png"))
        page.get_by_text("1 of 1 picture added").wait_for()
        page.keyboard.press("Escape")
        settled(page, "2 pictures")
        assert tiles(page).count() == 2


def test_a_phone_needs_no_sideways_scrolling(new_page: Callable[..., Page]) -> None:
    page = new_page("/?q=a+red+circle&t=-1:text:a+long+chip+with+many+words", viewport=PHONE, has_touch=True)
    settled(page, "results")
    page.get_by_label("Filters", exact=True).first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    tiles(page).first.click()
    page.wait_for_selector("#detail[open] dl")
    assert page.evaluate("document.querySelector('#detail').scrollWidth") <= PHONE["width"]


def test_thousands_of_results_keep_the_document_small(new_page: Callable[..., Page], server: Server) -> None:
    page = new_page("/?q=circle")
    settled(page, "results")
    for _ in range(30):
        page.mouse.wheel(0, 2500)
        page.wait_for_timeout(40)
    last = tiles(page).last
    assert last.locator("xpath=..").get_attribute("aria-posinset") == str(COUNT)
    assert tiles(page).count() < COUNT
    boxes = tiles(page).evaluate_all("all => all.map(each => each.getBoundingClientRect().toJSON())")
    for one, other in pairwise(boxes):
        overlaps = other["top"] < one["bottom"] - 1 and other["left"] < one["right"] - 1 and other["top"] == one["top"]
        assert not overlaps


def test_nothing_moves_once_it_is_there(new_page: Callable[..., Page]) -> None:
    page = new_page("/?q=a+red+circle")
    settled(page, "results")
    page.wait_for_timeout(800)
    shift = page.evaluate("""() => new Promise((done) => { let sum = 0;
        new PerformanceObserver((list) => { for (const entry of list.getEntries()) sum += entry.value; })
            .observe({type: 'layout-shift', buffered: true});
        setTimeout(() => done(sum), 200); })""")
    assert shift < 0.05


def test_a_key_is_asked_for_once(new_page: Callable[..., Page], tmp_path: Path, cache: Path) -> None:
    (tmp_path / "pictures").mkdir()
    scene(1).save(tmp_path / "pictures" / "1.jpg")
    with Index(str(tmp_path / "k.index"), model="pixels") as index:
        index.add(tmp_path / "pictures")
    with serving(tmp_path / "k.index", cache=cache, SIGHTLINE_API_KEY="open-sesame") as running:
        page = new_page("/", at=running)
        page.get_by_label("This server asks for a key").fill("open-sesame")
        page.keyboard.press("Enter")
        settled(page, "1 picture")
        page.wait_for_selector(".tile img.here")
        page.reload()
        settled(page, "1 picture")
    errors = new_page.errors  # type: ignore[attr-defined]
    assert all("401" in error for error in errors), errors  # Chromium itself reports the answers without a key
    errors.clear()


def test_a_server_that_went_away_is_said_and_found_again(new_page: Callable[..., Page], server: Server) -> None:
    page = new_page("/?q=circle")
    settled(page, "results")
    page.route("**/*", lambda route: route.abort())
    page.fill("#words", "square")
    page.get_by_text("The server does not answer").wait_for()
    assert tiles(page).count() > 10  # what was found stays in sight
    page.unroute("**/*")
    page.wait_for_selector("#banner", state="hidden")
    settled(page, "results")
    errors = new_page.errors  # type: ignore[attr-defined]
    assert all("ERR_FAILED" in error for error in errors), errors
    errors.clear()


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/?q=a+red+circle&fold=0.85",
        "/?q=circle&t=-1:text:red",
        "/?q=circle&compare=1",
        "/?q=circle&folder=file:///nowhere",
        "/docs",
    ],
)
def test_axe_finds_no_violation(new_page: Callable[..., Page], path: str) -> None:
    page = new_page(path, color_scheme="light")
    page.wait_for_timeout(400)
    check(page)
    page.emulate_media(color_scheme="dark")
    check(page)
    if path == "/":
        page.locator("#show-filters").click()
        page.locator("#show-status").click()
        page.wait_for_selector("#status[open] .card")
        check(page)
        page.keyboard.press("Escape")
        tiles(page).first.click()
        page.wait_for_selector("#detail[open] dl")
        check(page)


def check(page: Page) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
