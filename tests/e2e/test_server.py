"""The HTTP API as a program uses it: a real server on a real port, a real index, real files."""

import base64
import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.pictures import bomb, encoded, scene, turned
from tests.serving import Answer, Server, serving, wait_for
from tests.waiting import BUSY_S

from sightline.index import Index
from sightline.types import Record, Vector, record_id

COUNT = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "holiday").mkdir()
    for number in range(COUNT):
        scene(number).save(folder / ("holiday" if number % 4 == 0 else "") / f"scene {number}.jpg")
    (folder / "upright.jpg").write_bytes(turned(6))
    (folder / "broken.jpg").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def index(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("index") / "photos.index"
    with Index(str(path), model="mini") as opened:
        opened.add(folder)
    return path


@pytest.fixture(scope="module")
def server(index: Path, cache: Path) -> Iterator[Server]:
    with serving(index, cache=cache) as running:
        yield running


def id_of(path: Path) -> str:
    return record_id(path.as_uri())


def base64_of(image: Image.Image) -> str:
    return base64.b64encode(encoded(image, "PNG")).decode()


def is_problem(answer: Answer, status: int, part: str) -> bool:
    """Whether an answer is a problem document of that status that says why."""
    assert answer.status == status, answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert {"type", "title", "status", "detail"} <= set(answer.json)
    assert part in answer.json["detail"], answer.json
    return answer.json["status"] == status  # type: ignore[no-any-return]


def test_search_by_words_has_the_promised_shape(server: Server) -> None:
    answer = server.ask("/api/search", {"text": "a red circle", "k": 3}).json
    assert [len(answer["hits"]), answer["total_estimate"], answer["next_offset"]] == [3, COUNT + 1, 3]
    assert set(answer["took_ms"]) == {"encode", "search", "total"}
    hit = answer["hits"][0]
    assert {"id", "uri", "score", "payload", "links"} <= set(hit)
    assert answer["hits"] == sorted(answer["hits"], key=lambda each: -each["score"])
    assert server.ask("/api/search?q=a+red+circle&k=3").json["hits"] == answer["hits"]
    assert server.ask(hit["links"]["thumbnail"]).headers["Content-Type"] == "image/webp"


def test_the_answer_is_that_of_the_library(server: Server, index: Path) -> None:
    with Index(str(index)) as opened:
        expected = opened.search("a blue square", k=10, where={"width": {"$gte": 300}})
    body = {"text": "a blue square", "k": 10, "where": {"width": {"$gte": 300}}}
    found = server.ask("/api/search", body).json["hits"]
    assert [hit["id"] for hit in found] == [hit.id for hit in expected]


def test_a_picture_finds_itself_in_base64_as_upload_and_as_kept_query(server: Server, folder: Path) -> None:
    path = folder / "scene 7.jpg"
    encoded_file = base64.b64encode(path.read_bytes()).decode()
    by_base64 = server.ask("/api/search", {"image": encoded_file, "k": 1}).json["hits"][0]
    by_data_url = server.ask("/api/search", {"image": f"data:image/jpeg;base64,{encoded_file}", "k": 1}).json["hits"][0]
    by_upload = server.send("/api/search", [("image", "x.jpg", path.read_bytes()), ("query", "", b'{"k": 1}')])
    kept = server.send("/api/query-pictures", [("image", "x.jpg", path.read_bytes())])
    assert kept.status == 201
    by_kept = server.ask("/api/search", {"terms": [{"image_id": kept.json["id"]}], "k": 1}).json["hits"][0]
    assert {by_base64["id"], by_data_url["id"], by_upload.json["hits"][0]["id"], by_kept["id"]} == {id_of(path)}
    assert by_base64["score"] > 0.99
    assert server.ask(kept.json["thumbnail"]).body[8:12] == b"WEBP"


def test_terms_add_and_subtract(server: Server, folder: Path) -> None:
    one, other = id_of(folder / "scene 1.jpg"), id_of(folder / "scene 2.jpg")
    added = server.ask("/api/search", {"terms": [{"image_id": one}, {"image_id": other, "weight": 1}], "k": 2}).json
    assert {hit["id"] for hit in added["hits"]} == {one, other}
    taken = server.ask("/api/search", {"terms": [{"image_id": one}, {"image_id": other, "weight": -0.9}]}).json
    assert taken["hits"][0]["id"] == one
    assert taken["hits"][1]["id"] != other


def test_similar_leaves_the_picture_itself_out(server: Server, folder: Path) -> None:
    identity = id_of(folder / "scene 3.jpg")
    hits = server.ask(f"/api/images/{identity}/similar?k=5").json["hits"]
    assert len(hits) == 5
    assert identity not in [hit["id"] for hit in hits]


def test_pages_follow_each_other_without_gap_or_repetition(server: Server) -> None:
    whole = [hit["id"] for hit in server.ask("/api/search?q=circle&k=41").json["hits"]]
    paged, offset = [], 0
    while offset is not None:
        page = server.ask(f"/api/search?q=circle&k=12&offset={offset}").json
        paged += [hit["id"] for hit in page["hits"]]
        offset = page["next_offset"]
    assert paged == whole
    browsed = server.ask("/api/images?k=50").json
    assert {hit["id"] for hit in browsed["hits"]} == set(whole)
    assert browsed["next_offset"] is None


@pytest.mark.parametrize(("text", "are_some_likely"), [("a balloon", True), ("a giraffe in a kitchen", False)])
def test_hits_are_judged_as_by_the_library(server: Server, index: Path, text: str, are_some_likely: bool) -> None:
    with Index(str(index)) as opened:
        expected = opened.search(text, k=41).to_dict()
    answer = server.ask("/api/search", {"text": text, "k": 41}).json
    assert answer["likely"] == expected["likely"] == sum(hit["is_likely"] for hit in answer["hits"])
    assert 0 < answer["likely"] < 41 if are_some_likely else answer["likely"] == 0
    for hit, same in zip(answer["hits"], expected["hits"], strict=True):
        assert (hit["id"], hit["is_likely"]) == (same["id"], same["is_likely"])
        assert hit["line"] == pytest.approx(same["line"], abs=2e-4)
    assert server.ask(f"/api/search?q={text.replace(' ', '+')}&k=41").json["likely"] == answer["likely"]


def test_a_later_page_is_judged_with_those_before_it(server: Server) -> None:
    for text in ("a+balloon", "circle"):
        for offset in (0, 12, 24):
            page = server.ask(f"/api/search?q={text}&k=12&offset={offset}").json
            whole = server.ask(f"/api/search?q={text}&k={offset + 12}").json["hits"]
            assert page["hits"] == whole[offset:]
            assert page["likely"] == sum(hit["is_likely"] for hit in page["hits"])
    assert server.ask("/api/search?q=a+balloon&k=12&offset=24").json["likely"] > 0


def test_what_has_no_line_says_nothing_of_it(server: Server, folder: Path, cache: Path, tmp_path: Path) -> None:
    balloons, identity = {"text": "balloons"}, id_of(folder / "scene 1.jpg")
    unknown = [
        server.ask("/api/search", {"image": base64_of(scene(1))}),
        server.ask("/api/search", {"terms": [balloons, {"image_id": identity}]}),
        server.ask("/api/search", {"terms": [balloons, {"text": "a dog", "weight": -0.5}]}),
        server.ask("/api/search?q=balloons&k=10&offset=991"),
        server.ask(f"/api/images/{identity}/similar?k=5"),
    ]
    scene(1).save(tmp_path / "1.png")
    with Index(str(tmp_path / "old.index"), model="mini") as opened:
        opened.add(tmp_path / "1.png")
        opened.store.write_notes("line", {"line": None})
    with serving(tmp_path / "old.index", cache=cache) as running:
        unknown.append(running.ask("/api/search", balloons))
    for answer in unknown:
        assert answer.status == 200
        assert answer.json["likely"] is None
        assert not any({"line", "is_likely"} & set(hit) for hit in answer.json["hits"])
    assert server.ask("/api/search", {"terms": [balloons, {"text": "a dog"}]}).json["likely"] is not None


def test_thresholds_folding_and_company_leave_the_line_where_it_is(server: Server) -> None:
    alone = server.ask("/api/search?q=balloons&k=41").json
    least = alone["hits"][9]["score"] - 1e-4
    few = server.ask(f"/api/search?q=balloons&k=41&min_score={least}").json
    assert [hit["is_likely"] for hit in few["hits"]] == [hit["is_likely"] for hit in alone["hits"][:10]]
    folded = server.ask("/api/search", {"text": "balloons", "k": 41, "group_duplicates": True}).json
    assert folded["likely"] == sum(hit["is_likely"] for hit in folded["hits"])
    by_picture = {"image": base64_of(scene(3)), "k": 41}
    with ThreadPoolExecutor(16) as pool:
        bodies = [{"text": "balloons", "k": 41}, by_picture] * 24
        together = list(pool.map(lambda body: server.ask("/api/search", body).json, bodies))
    assert all(answer["hits"] == alone["hits"] for answer in together[::2])
    assert all(answer["likely"] is None for answer in together[1::2])


def test_the_description_for_machines_tells_of_the_line(server: Server) -> None:
    schemas = server.ask("/openapi.json").json["components"]["schemas"]
    assert {"type": "null"} in schemas["SearchAnswer"]["properties"]["likely"]["anyOf"]
    hit = schemas["FoundPicture"]
    assert {"line", "is_likely"} <= set(hit["properties"])
    assert not {"line", "is_likely"} & set(hit["required"])


def test_filters_and_thresholds_narrow_exactly(server: Server, folder: Path) -> None:
    holiday = server.ask("/api/search", {"text": "a", "where": {"folders": (folder / "holiday").as_uri()}}).json
    assert holiday["total_estimate"] == len(holiday["hits"]) == COUNT // 4
    now = {"modified": {"$gte": "2020-01-01"}}
    assert server.ask("/api/search", {"text": "a", "where": now, "k": 1}).json["total_estimate"] == COUNT + 1
    assert server.ask("/api/search", {"text": "a", "where": {"modified": {"$lt": "2020-13"}}}).status == 422
    assert server.ask("/api/search", {"text": "a", "where": {"modified": {"$lt": "2020"}}}).json["hits"] == []
    every = server.ask("/api/search?q=a+red+circle&k=41").json["hits"]
    bound = every[9]["score"]
    assert len(server.ask(f"/api/search?q=a+red+circle&k=41&min_score={bound - 1e-4}").json["hits"]) == 10
    curve = server.ask("/api/scores", {"text": "a red circle"}).json
    assert (curve["counts"][-1], curve["deepest"], curve["total"]) == (COUNT + 1,) * 3
    assert curve["scores"] == [hit["score"] for hit in every]


def test_near_duplicates_fold_into_one(index: Path, folder: Path, cache: Path, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    picture = Image.open(folder / "scene 5.jpg")
    for quality in (95, 80, 60):
        picture.save(copies / f"{quality}.jpg", quality=quality)
    scene(6).save(copies / "other.jpg")
    with Index(str(tmp_path / "copies.index"), model="mini") as opened:
        opened.add(copies)
    with serving(tmp_path / "copies.index", cache=cache) as running:
        body = {"text": "a shape", "group_duplicates": True}
        hits = running.ask("/api/search", body).json["hits"]
        assert sorted(len(hit["duplicates"]) for hit in hits) == [0, 2]
        strict = running.ask("/api/search", {**body, "duplicate_score": 1}).json["hits"]
        assert [hit["duplicates"] for hit in strict] == [[]] * 4


def test_thumbnails_are_upright_cached_and_made_once(server: Server, folder: Path, cache: Path) -> None:
    identity = id_of(folder / "upright.jpg")
    link = server.ask(f"/api/images/{identity}").json["links"]["thumbnail"]
    first = server.ask(link)
    assert "immutable" in first.headers["Cache-Control"]
    image = Image.open(BytesIO(first.body)).convert("RGB")
    red = image.getpixel((2, 2))
    assert isinstance(red, tuple)
    assert red[0] > 200 > 60 > red[1]
    again = server.ask(link, If_None_Match=first.headers["ETag"])
    assert (again.status, again.body) == (304, b"")
    assert "immutable" not in server.ask(f"/api/images/{identity}/thumbnail").headers["Cache-Control"]
    files = list((cache / "pages").rglob("*.webp"))
    assert server.ask(link).body == first.body
    assert list((cache / "pages").rglob("*.webp")) == files


def test_the_file_is_served_by_id_with_ranges(server: Server, folder: Path) -> None:
    path = folder / "scene 9.jpg"
    whole = server.ask(f"/api/images/{id_of(path)}/file")
    assert whole.body == path.read_bytes()
    assert whole.headers["Content-Type"] == "image/jpeg"
    part = server.ask(f"/api/images/{id_of(path)}/file", Range="bytes=10-19")
    assert (part.status, part.body) == (206, path.read_bytes()[10:20])
    saved = server.ask(f"/api/images/{id_of(path)}/file?download=true").headers["Content-Disposition"]
    assert saved == "attachment; filename*=UTF-8''scene%209.jpg"


def test_labels_get_probabilities(server: Server, folder: Path) -> None:
    body = {"labels": ["a dog", "coloured shapes", "a car"], "image_id": id_of(folder / "scene 1.jpg")}
    labels = server.ask("/api/classify", body).json["labels"]
    assert sum(label["probability"] for label in labels) == pytest.approx(1, abs=1e-4)
    assert {label["label"] for label in labels} == set(body["labels"])
    assert is_problem(server.ask("/api/classify", {"labels": ["a", "b"]}), 422, "image_id")


def test_embeddings_are_those_of_the_index(server: Server, folder: Path, index: Path) -> None:
    body = {"texts": ["a dog"], "images": [base64.b64encode((folder / "scene 2.jpg").read_bytes()).decode()]}
    answer = server.ask("/api/embeddings", body).json
    with Index(str(index)) as opened:
        stored = opened.record(id_of(folder / "scene 2.jpg")).vector
        text = opened.encoder.encode_texts(["a dog"])[0]
    assert float(np.dot(stored, np.array(answer["images"][0]))) > 0.999
    assert float(np.dot(text, np.array(answer["texts"][0]))) > 0.999


def test_status_failures_health_and_metrics(server: Server, folder: Path) -> None:
    (state,) = server.ask("/api/status").json["indexes"]
    assert (state["pictures"], state["failures"], state["model"]) == (COUNT + 1, 1, "mini")
    failures = server.ask("/api/failures").json
    assert failures["total"] == 1
    assert failures["failures"][0]["uri"] == (folder / "broken.jpg").as_uri()
    assert server.ask("/healthz").status == server.ask("/readyz").status == 200
    server.ask("/api/search?q=a+dog")
    text = server.ask("/metrics").body.decode()
    assert 'sightline_index_pictures{index="photos"} 41' in text
    assert 'sightline_stage_seconds_count{stage="encode"}' in text
    assert 'sightline_requests_total{method="GET",route="/api/search",status="200"}' in text
    fields = {facet["field"] for facet in wait_for_facets(server)}
    assert {"width", "format", "folders", "modified"} <= fields


def wait_for_facets(server: Server) -> list[dict[str, Any]]:
    for _ in range(100):
        answer = server.ask("/api/facets").json
        if answer["is_complete"]:
            return list(answer["facets"])
        time.sleep(0.05)
    raise TimeoutError


def test_another_process_writes_while_the_server_answers(tmp_path: Path, cache: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    scene(1).save(pictures / "1.jpg")
    path = tmp_path / "growing.index"
    with Index(str(path), model="pixels") as opened:
        opened.add(pictures)
    with serving(path, cache=cache) as running:
        assert running.ask("/api/images").json["total_estimate"] == 1
        scene(2).save(pictures / "2.jpg")
        (pictures / "1.jpg").unlink()
        done = [sys.executable, "-m", "sightline", "index", str(pictures), "--index", str(path), "-q"]
        subprocess.run(done, check=True)
        hits = running.ask("/api/search", {"image": base64_of(scene(2))}).json["hits"]
        assert [hit["payload"]["name"] for hit in hits] == ["2.jpg"]


def test_an_index_that_does_not_exist_yet_is_waited_for(tmp_path: Path, cache: Path) -> None:
    with serving(tmp_path / "later.index", "--model", "pixels", cache=cache, is_ready=False) as running:
        assert is_problem(running.ask("/api/images"), 503, "there is no index")
        assert "there is no index" in running.ask("/api/status").json["indexes"][0]["problem"]
        added = running.send("/api/images", [("files", "a.png", encoded(scene(1), "PNG"))])
        assert added.status == 201
        assert running.ask("/api/images").json["total_estimate"] == 1


def test_uploads_are_found_at_once_and_survive_a_kill(tmp_path: Path, cache: Path, index: Path) -> None:
    path = tmp_path / "uploads.index"
    with Index(str(path), model="pixels") as opened:
        opened.add([])
    acknowledged: list[str] = []
    with serving(path, cache=cache) as running:
        files = [("files", f"../../evil {n}.jpg", encoded(scene(n), "JPEG")) for n in range(3)]
        answer = running.send("/api/images", files)
        assert answer.status == 201
        pictures = answer.json["pictures"]
        assert all("/uploads.index.uploads/" in picture["uri"] for picture in pictures)
        assert all("evil" not in json.dumps(picture) for picture in pictures)
        assert (
            running.ask("/api/search", {"image": base64_of(scene(1)), "k": 1}).json["hits"][0]["id"]
            == pictures[1]["id"]
        )
        assert running.ask(pictures[0]["links"]["file"]).body == files[0][2]
        again = running.send("/api/images", [files[0]]).json["pictures"]
        assert again[0]["id"] == pictures[0]["id"]
        acknowledged += [picture["id"] for picture in pictures]
        running.process.kill()
    with serving(path, cache=cache) as running:
        assert {hit["id"] for hit in running.ask("/api/images").json["hits"]} == set(acknowledged)
        assert running.ask(f"/api/images/{acknowledged[0]}", method="DELETE").json == {"removed": 1}
        assert running.ask(f"/api/images/{acknowledged[0]}").status == 404
        assert running.ask("/api/images").json["total_estimate"] == 2
        assert len(list((tmp_path / "uploads.index.uploads").rglob("*.jpg"))) == 2


@pytest.mark.parametrize("kills", [2, pytest.param(30, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_kill_under_load_loses_no_acknowledged_upload(tmp_path: Path, cache: Path, kills: int) -> None:
    path, chance = tmp_path / "load.index", random.Random(kills)
    with Index(str(path), model="pixels") as opened:
        opened.add([])
    acknowledged, searches = list[str](), list[int]()
    for kill in range(kills):
        with serving(path, cache=cache) as running:
            threads = [
                threading.Thread(target=upload_forever, args=(running, 1000 * kill + number, acknowledged))
                for number in range(4)
            ]
            threads += [threading.Thread(target=search_forever, args=(running, searches)) for _ in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(chance.uniform(0.8, 1.6))
            running.process.kill()
            for thread in threads:
                thread.join()
        done = subprocess.run(
            [sys.executable, "-m", "sightline", "status", "--index", str(path), "--json", "--verify"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["damaged"] == []
    assert len(acknowledged) > 5 * kills
    assert searches.count(200) > 5 * kills
    assert set(searches) <= {200, 503}
    with serving(path, cache=cache) as running:
        listed = all_pictures(running)
        assert set(acknowledged) <= set(listed)
        for identity in acknowledged:
            found = running.ask("/api/search", {"terms": [{"image_id": identity}], "k": 1}).json["hits"][0]
            assert found["score"] > 0.999
            assert running.ask(f"/api/images/{identity}/file").status == 200


def upload_forever(running: Server, number: int, acknowledged: list[str]) -> None:
    """New pictures until the server is gone."""
    while True:
        number += 10
        try:
            answer = running.send("/api/images", [("files", "x.png", encoded(scene(number, (64, 48)), "PNG"))])
        except (OSError, HTTPException):
            return
        acknowledged.extend(picture["id"] for picture in answer.json.get("pictures", []))


def search_forever(running: Server, statuses: list[int]) -> None:
    """Searches by a picture until the server is gone."""
    body = {"image": base64_of(scene(1, (64, 48))), "k": 5}
    while True:
        try:
            statuses.append(running.ask("/api/search", body).status)
        except (OSError, HTTPException):
            return


def all_pictures(running: Server) -> dict[str, Any]:
    """Every picture of the index by id."""
    found, offset = dict[str, Any](), 0
    while offset is not None:
        page = running.ask(f"/api/images?k=1000&offset={offset}").json
        found |= {hit["id"]: hit for hit in page["hits"]}
        offset = page["next_offset"]
    return found


def test_two_servers_write_one_index_in_turn(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "two.index"
    with Index(str(path), model="pixels") as opened:
        opened.add([])
    with serving(path, cache=cache) as one, serving(path, cache=cache) as other:
        with ThreadPoolExecutor(6) as pool:
            added = set(pool.map(lambda number: uploaded((one, other)[number % 2], number), range(16)))
        assert len(added) == 16
        for running in (one, other):
            assert set(all_pictures(running)) == added


def test_a_vanished_file_stays_a_hit_that_is_marked(tmp_path: Path, cache: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(2):
        scene(number).save(pictures / f"{number}.png")
    with Index(str(tmp_path / "v.index"), model="pixels") as opened:
        opened.add(pictures)
    with serving(tmp_path / "v.index", cache=cache) as running:
        link = running.ask(f"/api/images/{id_of(pictures / '0.png')}").json["links"]["thumbnail"]
        seen = running.ask(link).body
        for path in pictures.iterdir():
            path.unlink()
        hits = running.ask("/api/images").json["hits"]
        assert [(hit["gone"], hit["links"]["file"]) for hit in hits] == [(True, None)] * 2
        assert running.ask(link).body == seen
        gone = f"/api/images/{id_of(pictures / '1.png')}"
        assert is_problem(running.ask(f"{gone}/thumbnail"), 410, "vanished")
        assert is_problem(running.ask(f"{gone}/file"), 410, "vanished")


def test_no_link_leads_out_of_the_roots(tmp_path: Path, cache: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    scene(1).save(secret / "private.png")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    scene(2).save(pictures / "public.png")
    (pictures / "link.png").symlink_to(secret / "private.png")
    (pictures / "folder").symlink_to(secret, target_is_directory=True)
    with Index(str(tmp_path / "l.index"), model="pixels") as opened:
        opened.add(pictures)
    with serving(tmp_path / "l.index", cache=cache) as running:
        for name in ("link.png", "folder/private.png"):
            identity = id_of(pictures / name)
            assert is_problem(running.ask(f"/api/images/{identity}/file"), 403, "outside")
            assert is_problem(running.ask(f"/api/images/{identity}/thumbnail"), 403, "outside")
        for path in (
            "/api/images/..%2f..%2fetc%2fpasswd/file",
            f"/api/images/{pictures}/public.png/file",
            "/static/../app.py",
        ):
            assert running.ask(path).status == 404
        assert running.ask(f"/api/images/{id_of(pictures / 'public.png')}/file").status == 200
    with serving(tmp_path / "l.index", "--root", str(secret), cache=cache) as running:
        assert running.ask(f"/api/images/{id_of(pictures / 'link.png')}/file").status == 200


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"text": "a", "k": 0}, "greater than or equal to 1"),
        ({"text": "a", "k": 1_000_000}, "less than or equal to 1000"),
        ({"text": "a", "offset": -1}, "offset"),
        ({"text": ""}, "query is empty"),
        ({}, "query is empty"),
        ({"text": 7}, "valid string"),
        ({"txt": "a"}, "unknown field 'txt'"),
        ({"text": "a", "where": {"width": {"$no": 1}}}, "$no"),
        ({"text": "a", "where": {'wi"dth': 1}}, "without quotes"),
        ({"text": "a", "where": {"width": {"$gt": [1]}}}, "expected one value"),
        ({"image": "%%%"}, "not valid base64"),
        ({"image": base64.b64encode(b"only text").decode()}, "not a picture but text"),
        ({"image": base64.b64encode(bomb()).decode()}, "megapixels"),
        ({"terms": [{"image_id": "nonsense"}]}, "no picture with the id"),
        ({"terms": [{"weight": 2}]}, "expected one of"),
        ({"terms": [{"text": "a"}, {"text": "a", "weight": -1}]}, "cancel out"),
        ({"text": "a", "index": "nonsense"}, "no index"),
    ],
)
def test_wrong_searches_get_a_problem_that_says_why(server: Server, body: dict[str, Any], part: str) -> None:
    answer = server.ask("/api/search", body)
    assert is_problem(answer, 404 if part.startswith("no ") and "base64" not in part else 422, part)


def test_malformed_bodies_get_a_problem(server: Server) -> None:
    json_type = {"Content_Type": "application/json"}
    assert is_problem(server.ask("/api/search", data=b"{", **json_type), 422, "JSON")
    assert is_problem(server.ask("/api/search", data=b"\xff\xfe", **json_type), 422, "JSON")
    assert is_problem(server.ask("/api/search", data=b'{"text": "\\ud800"}', **json_type), 422, "JSON")
    assert is_problem(server.ask("/api/search", data=b"[" * 100_000, **json_type), 422, "JSON")
    assert is_problem(server.ask("/api/search", data=b"a", Content_Type="text/plain"), 415, "text/plain")
    assert is_problem(server.ask("/api/search?q=a&k=no"), 422, "k")
    assert is_problem(server.ask("/api/search?q=a&where={"), 422, "where is not JSON")
    assert is_problem(server.ask("/nowhere"), 404, "")
    assert is_problem(server.ask("/api/search", method="PUT", data=b""), 405, "")
    assert is_problem(server.send("/api/images", [("files", "x.jpg", b"only text")]), 422, "not a picture but text")
    assert is_problem(server.send("/api/images", [("files", "x.png", bomb())]), 422, "megapixels")
    assert is_problem(server.ask("/api/images/nonsense", method="DELETE"), 404, "no picture")
    assert server.ask("/api/images").json["total_estimate"] == COUNT + 1


def test_200_megabytes_are_refused_unread(server: Server) -> None:
    port = int(server.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = "POST /api/images HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        connection.sendall(f"{head}Content-Length: 200000000\r\n\r\n".encode())
        chunk = bytes(2_000_000)
        for _ in range(100):
            connection.sendall(chunk)
        assert b"413" in connection.recv(4096).split(b"\r\n")[0]
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = "POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(40):
            connection.sendall(b"1e8480\r\n" + chunk + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        assert b"413" in connection.recv(4096).split(b"\r\n")[0]


def test_keys_open_what_they_are_for(index: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "readers").write_text("# who may look\nreading-key\n")
    options = ("--api-key", str(tmp_path / "readers"))
    picture = [("image", "x.png", encoded(scene(1), "PNG"))]
    with serving(index, *options, cache=cache, SIGHTLINE_WRITE_KEY="writing-key") as running:
        assert running.ask("/").status == running.ask("/healthz").status == running.ask("/static/app.js").status == 200
        for path in ("/api/search?q=a", "/api/status", "/metrics", "/api/images"):
            assert is_problem(running.ask(path), 401, "Authorization: Bearer")
            assert is_problem(running.ask(path, Authorization="Bearer wrong-key"), 401, "unknown")
            assert running.ask(path, Authorization="Bearer reading-key").status == 200
        assert running.ask("/api/status", X_API_Key="writing-key").json["may_write"] is True
        assert running.ask("/api/status", X_API_Key="reading-key").json["may_write"] is False
        assert running.send("/api/query-pictures", picture, Authorization="Bearer reading-key").status == 201
        upload = running.send("/api/images", [("files", *picture[0][1:])], Authorization="Bearer reading-key")
        assert is_problem(upload, 403, "only read")
        assert is_problem(running.ask("/api/images/x", method="DELETE", X_API_Key="reading-key"), 403, "only read")
        assert is_problem(running.ask("/api/images/x", method="DELETE", X_API_Key="writing-key"), 404, "no picture")
        opened = running.ask("/api/session", method="POST", data=b"", Authorization="Bearer reading-key")
        cookie = opened.headers["Set-Cookie"].split(";")[0]
        assert "reading-key" not in cookie
        assert {"HttpOnly", "SameSite=strict"} <= set(opened.headers["Set-Cookie"].split("; "))
        assert running.ask("/api/status", Cookie=cookie).status == 200
        assert is_problem(running.ask("/api/status", Cookie="sightline=wrong"), 401, "unknown")


def test_a_key_is_made_once_and_shown(index: Path, cache: Path, tmp_path: Path) -> None:
    options, file = ("--make-key", "--write-key", str(tmp_path / "writers")), tmp_path / "writers"
    with serving(index, *options, cache=cache) as running:
        key = file.read_text("utf-8").strip()
        assert len(key) == 48
        assert file.stat().st_mode & 0o077 == 0
        assert running.ask("/api/status").status == 401
        assert running.ask("/api/status", Authorization=f"Bearer {key}").json["may_write"] is True
        port = running.url.rsplit(":", 1)[1]
        assert key in (cache / f"server-{port}.log").read_text("utf-8")
    with serving(index, *options, cache=cache, SIGHTLINE_WRITE_KEY="another-key") as running:
        assert file.read_text("utf-8").strip() == key
        for known in (key, "another-key"):
            assert running.ask("/api/status", Authorization=f"Bearer {known}").json["may_write"] is True


def test_an_index_that_is_no_folder_is_served_too(folder: Path, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "uploads").mkdir()
    with serving("memory:", cache=cache, is_ready=False) as running:
        refused = running.send("/api/images", [("files", "x.png", encoded(scene(1), "PNG"))])
        assert is_problem(refused, 403, "--uploads")
        assert running.ask("/api/status").json["indexes"][0]["uploads"] is False
    options = ("--uploads", str(tmp_path / "uploads"), "--model", "pixels")
    with serving("memory:", *options, cache=cache, is_ready=False) as running:
        pictures = [("files", "x.png", encoded(scene(number), "PNG")) for number in range(3)]
        added = running.send("/api/images", pictures)
        assert added.status == 201, added.body
        found = running.ask("/api/search", {"image": base64_of(scene(1)), "k": 1}).json
        assert found["hits"][0]["id"] == added.json["pictures"][1]["id"]
        assert running.ask(found["hits"][0]["links"]["thumbnail"]).headers["Content-Type"] == "image/webp"
        assert running.ask(found["hits"][0]["links"]["file"]).status == 200
        (state,) = running.ask("/api/status").json["indexes"]
        assert (state["pictures"], state["size_bytes"], state["uploads"]) == (3, None, True)
        assert {facet["field"] for facet in wait_for_facets(running)} >= {"width", "format"}
        assert running.ask("/readyz").status == 200


def test_other_hosts_are_bound_with_a_key_only(index: Path) -> None:
    command = [sys.executable, "-m", "sightline", "serve", "--index", str(index), "--host", "0.0.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "--api-key" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_other_web_sites_can_do_nothing(server: Server) -> None:
    assert is_problem(server.ask("/api/status", Host="evil.example"), 421, "evil.example")
    for headers in ({"Origin": "https://evil.example"}, {"Sec_Fetch_Site": "cross-site"}):
        assert is_problem(server.send("/api/images", [("files", "x", b"x")], **headers), 403, "another web site")
    answer = server.ask("/", Origin="https://evil.example")
    assert answer.headers["Access-Control-Allow-Origin"] is None
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_another_site_that_is_allowed_may_post_and_show_thumbnails(index: Path, cache: Path) -> None:
    with serving(index, "--cors", "https://app.example", cache=cache) as running:
        allowed: dict[str, Any] = {"Origin": "https://app.example", "Sec_Fetch_Site": "cross-site"}
        answer = running.ask("/api/search", {"text": "a dog", "k": 1}, **allowed)
        assert answer.status == 200
        assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
        thumbnail = running.ask(answer.json["hits"][0]["links"]["thumbnail"], Sec_Fetch_Site="cross-site")
        assert thumbnail.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
        other: dict[str, Any] = {"Origin": "https://evil.example", "Sec_Fetch_Site": "cross-site"}
        assert running.ask("/api/search", {"text": "a dog"}, **other).status == 403


def test_deleting_never_leaves_the_uploads_folder(tmp_path: Path, cache: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("keep me")
    uri = f"file://{tmp_path}/some.index.uploads/../victim.txt"
    with Index(str(tmp_path / "some.index"), model="pixels") as opened:
        opened.add([])
        opened.store.upsert([Record(record_id(uri), uri, unit_vector(opened.encoder.dim))])
    with serving(tmp_path / "some.index", cache=cache) as running:
        assert running.ask(f"/api/images/{record_id(uri)}", method="DELETE").status == 200
    assert victim.read_text() == "keep me"


def unit_vector(dim: int) -> Vector:
    vector: Vector = np.eye(1, dim, dtype=np.float32)[0]
    return vector


def test_many_unknown_fields_are_one_error(server: Server) -> None:
    began = time.perf_counter()
    for count, detail in ((15_000, "unknown field 'k0'"), (300_000, "the JSON has 20,001 values or more")):
        body = "{" + ",".join(f'"k{number}":1' for number in range(count)) + "}"
        for path in ("/api/search", "/api/embeddings"):
            answer = server.ask(path, data=body.encode(), Content_Type="application/json")
            assert is_problem(answer, 422, detail)
            assert len(answer.body) < 2_000
    assert time.perf_counter() - began < BUSY_S


def test_cors_read_only_and_rate_are_as_set(index: Path, cache: Path) -> None:
    options = ("--cors", "https://app.example", "--read-only", "--rate", "5")
    with serving(index, *options, cache=cache) as running:
        allowed = running.ask("/api/status", Origin="https://app.example").headers["Access-Control-Allow-Origin"]
        assert allowed == "https://app.example"
        assert is_problem(running.send("/api/images", [("files", "x", b"x")]), 403, "read only")
        answers = [running.ask("/api/status") for _ in range(40)]
        (refused, *_) = [answer for answer in answers if answer.status == 429]
        assert int(refused.headers["Retry-After"]) >= 1
        assert [answer.status for answer in answers[:10]] == [200] * 10


def test_a_wrong_model_is_said_before_anything_is_served(index: Path) -> None:
    command = [sys.executable, "-m", "sightline", "serve", "--index", str(index), "--model", "pixels"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "was built with 'mini', not 'pixels'" in done.stderr


def test_concurrent_queries_get_their_own_answers(server: Server) -> None:
    texts = [f"a {colour} {shape}" for colour in ("red", "blue", "green", "pink") for shape in ("dog", "ring", "box")]
    alone = {text: server.ask("/api/search", {"text": text}).json["hits"] for text in texts}
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda text: (text, server.ask("/api/search", {"text": text})), texts * 8))
    assert all(answer.status == 200 for _, answer in together)
    assert all(answer.json["hits"] == alone[text] for text, answer in together)


def test_a_wrong_query_spoils_no_other_of_its_batch(server: Server, folder: Path) -> None:
    good = {"terms": [{"image_id": id_of(folder / "scene 1.jpg")}], "k": 1}
    bad = {"terms": [{"image_id": "nonsense"}], "k": 1}
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda number: server.ask("/api/search", bad if number % 3 else good), range(240)))
    assert [answer.status for answer in answers] == [404 if number % 3 else 200 for number in range(240)]


def test_too_many_at_once_are_refused_and_the_rest_is_answered(server: Server) -> None:
    queries = [{"image": base64_of(scene(number, (1200, 900))), "k": 1} for number in range(12)]
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda number: server.ask("/api/search", queries[number % 12]), range(200)))
    assert {answer.status for answer in answers} == {200, 503}
    (refused, *_) = [answer for answer in answers if answer.status == 503]
    assert refused.headers["Retry-After"] == "1"
    assert is_problem(refused, 503, "try again")
    began = time.perf_counter()
    assert server.ask("/api/search?q=a+dog").status == 200
    assert time.perf_counter() - began < BUSY_S


def test_who_types_on_leaves_the_queue(server: Server) -> None:
    port = int(server.url.rsplit(":", 1)[1])
    head = "POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    for _ in range(5):
        connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
        for number, connection in enumerate(connections):
            body = json.dumps({"text": f"a {number} " * 200, "k": 41}).encode()
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        for connection in connections:
            connection.close()
    statuses: list[int] = []
    until = time.monotonic() + 10  # on a busy machine the hang-ups take a moment to arrive
    while not statuses or (statuses[-1] == 503 and time.monotonic() < until):
        statuses.append(server.ask("/api/search?q=a+dog").status)
        time.sleep(0.05)
    assert statuses[-1] == 200
    assert 'route="/api/search",status="499"' in server.ask("/metrics").body.decode()


def test_workers_share_one_index_and_stop_gracefully(tmp_path: Path, cache: Path) -> None:
    path, more = tmp_path / "shared.index", tmp_path / "more"
    more.mkdir()
    scene(90).save(more / "by another process.png")
    with Index(str(path), model="pixels") as opened:
        opened.add([])
    with serving(path, "--workers", "2", cache=cache) as running:
        with ThreadPoolExecutor(4) as pool:  # connections of their own, so that both workers take some
            uploads = list(pool.map(lambda number: uploaded(running, number), range(12)))
        for identity in uploads:
            for _ in range(3):
                found = running.ask("/api/search", {"terms": [{"image_id": identity}], "k": 1})
                assert (found.status, found.json["hits"][0]["id"]) == (200, identity)
        with Index(str(path)) as opened:
            opened.add(more)
            opened.remove([uploads[0]])
        for _ in range(8):
            assert running.ask("/api/images?k=1").json["total_estimate"] == 12
            assert running.ask(f"/api/images/{uploads[0]}").status == 404
            found = running.ask("/api/search", {"image": base64_of(scene(90)), "k": 1}).json["hits"][0]
            assert found["id"] == id_of(more / "by another process.png")
        with ThreadPoolExecutor(8) as pool:
            counts = list(pool.map(lambda _: answered(running), range(120)))
        assert len(set(counts)) < len(counts), "one worker answered everything: its count never came twice"
    assert running.process.returncode == 0


def uploaded(running: Server, number: int) -> str:
    """The id of a picture that this upload added."""
    answer = running.send("/api/images", [("files", "x.png", encoded(scene(number), "PNG"))])
    assert answer.status == 201, answer.body
    return str(answer.json["pictures"][0]["id"])


def answered(running: Server) -> str:
    """How many requests the worker that answers has answered."""
    lines = running.ask("/metrics").body.decode().splitlines()
    return next(line for line in lines if line.startswith('sightline_stage_seconds_count{stage="request"}'))


def test_the_page_and_its_parts_stay_small_and_local(server: Server) -> None:
    static = Path(__file__).parents[2] / "src" / "sightline" / "server" / "static"
    total = 0
    for path in static.iterdir():
        answer = server.ask(f"/static/{path.name}", Accept_Encoding="gzip")
        assert answer.status == 200
        total += len(answer.body)
        text = path.read_text("utf-8")
        assert "https://" not in text
        assert "http://" not in text.replace("http://www.w3.org/", "")
    assert total < 60_000
    assert server.ask("/docs").status == server.ask("/openapi.json").status == 200


def test_the_server_answers_again_after_a_restart(index: Path, cache: Path) -> None:
    with serving(index, cache=cache) as running:
        first = running.ask("/api/search?q=a+dog").json["hits"]
    with serving(index, cache=cache) as running:
        wait_for(running, "/readyz", cache)
        assert running.ask("/api/search?q=a+dog").json["hits"] == first
