"""Models fetched from a real server on this machine: whole, in pieces, or not at all."""

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.hubs import COMMIT, FakeHub, refusing, running, silent
from tests.models import GOLDEN_CLIP
from tests.waiting import BUSY_S

from sightline.encoders.base import Choice, choose_model, load_encoder
from sightline.encoders.catalog import catalog
from sightline.encoders.hub import Hub, is_here
from sightline.encoders.onnx import OnnxEncoder
from sightline.errors import EncoderError, HubUnreachable, ModelDamaged, ModelNotFound, UsageError
from sightline.files import default_cache

TINY = "somebody/tiny"
BEST = next(entry for entry in catalog().values() if entry.recommended)
NEEDED = {path.relative_to(GOLDEN_CLIP).as_posix() for path in GOLDEN_CLIP.rglob("*") if path.is_file()}
NEEDED -= {"expected.npz"}


@pytest.fixture(autouse=True)
def _without_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[FakeHub]:
    with running(FakeHub()) as server:
        server.add(TINY, GOLDEN_CLIP)
        server.add(BEST.repository, GOLDEN_CLIP)
        yield server


@pytest.fixture
def hub(server: FakeHub, tmp_path: Path) -> Hub:
    return Hub(server.endpoint, tmp_path / "cache")


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_fetched_model_has_the_files_it_needs_and_works(hub: Hub, server: FakeHub) -> None:
    others = ("README.md", ".gitattributes", "visual/model.armnn", "visual/rknpu/a.rknn", "visual/fp16/model.onnx")
    evil = ("textual/../../../evil", "visual/model.onnx/../../../evil")
    server.models[TINY] |= dict.fromkeys((*others, *evil), b"x") | {"visual/weights_of_1": b"outside the graph"}
    folder = hub.fetch(TINY)
    assert files_below(folder) == NEEDED | {"visual/weights_of_1"}
    assert all((folder / name).read_bytes() == server.models[TINY][name] for name in NEEDED)
    assert OnnxEncoder(folder).encode_texts(["a dog"]).shape == (1, 16)


def test_all_files_are_of_one_commit(hub: Hub, server: FakeHub) -> None:
    hub.fetch(TINY)
    assert all(f"/resolve/{COMMIT}/" in one.path for one in server.fetched())


def test_a_model_on_the_disk_is_used_without_a_request(hub: Hub, server: FakeHub) -> None:
    first = hub.fetch(TINY)
    server.asked.clear()
    assert hub.fetch(TINY) == first == hub.folder(TINY)
    assert server.asked == []


def test_progress_counts_every_byte_once(server: FakeHub, tmp_path: Path) -> None:
    seen = list[tuple[int, int]]()
    hub = Hub(server.endpoint, tmp_path, progress=lambda done, total: seen.append((done, total)))
    hub.fetch(TINY)
    total = sum(len(server.models[TINY][name]) for name in NEEDED)
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_broken_connection_is_resumed_within_one_fetch(hub: Hub, server: FakeHub) -> None:
    server.cut_after, server.cuts_left = 20_000, 3
    folder = hub.fetch(TINY)
    starts = [one.start for one in server.fetched() if one.path.endswith("textual/model.onnx")]
    assert starts[:2] == [0, 20_000]
    assert (folder / "textual" / "model.onnx").read_bytes() == server.models[TINY]["textual/model.onnx"]


def test_an_interrupted_fetch_goes_on_where_it_stopped(server: FakeHub, tmp_path: Path) -> None:
    """The first fetch is ended from outside, as by Ctrl-C; the second one asks for the rest only."""

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    server.cut_after = 10_000
    with pytest.raises(KeyboardInterrupt):
        Hub(server.endpoint, tmp_path, progress=stop).fetch(TINY)
    assert Hub(server.endpoint, tmp_path).folder(TINY) is None
    before = server.fetched()
    (unfinished,) = (tmp_path / "models").glob("*.part-*")
    begun = {
        f"/{TINY}/resolve/{COMMIT}/{name.removesuffix('.part')}"
        for name in files_below(unfinished)
        if name.endswith(".part") and (unfinished / name).stat().st_size
    }
    finished = {name for name in files_below(unfinished) if not name.endswith(".part")}
    assert begun
    assert finished
    server.cut_after = None
    folder = Hub(server.endpoint, tmp_path).fetch(TINY)
    after = server.fetched()[len(before) :]
    assert any(one.start > 0 for one in after)
    assert {one.path for one in after if not one.start}.isdisjoint(begun)
    assert finished.isdisjoint(one.path.partition(f"/{COMMIT}/")[2] for one in after)
    assert all((folder / name).read_bytes() == server.models[TINY][name] for name in NEEDED)


def test_a_server_that_cannot_resume_starts_the_file_over(hub: Hub, server: FakeHub) -> None:
    server.ignores_range, server.cut_after, server.cuts_left = True, 30_000, 1
    folder = hub.fetch(TINY)
    assert all((folder / name).read_bytes() == server.models[TINY][name] for name in NEEDED)


def test_a_hub_that_goes_away_says_how_far_it_came(hub: Hub, server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightline.web.download.PATIENCE_S", 0.05)
    server.cut_after = 0
    with pytest.raises(HubUnreachable, match=r"broke off.*got [\d,]+ of [\d,]+ bytes.*goes on from there"):
        hub.fetch(TINY)


@pytest.mark.parametrize("name", ["config.json", "visual/model.onnx"])
def test_wrong_content_is_refused_and_removed(name: str, hub: Hub, server: FakeHub) -> None:
    """Large files are announced with a SHA-256, small ones with git's own hash."""
    server.models[TINY] = {name: server.models[TINY][name]} | server.models[TINY]  # this one comes first
    server.garbles = True
    with pytest.raises(ModelDamaged, match=r"has the sha\d+ \w+, expected \w+"):
        hub.fetch(TINY)
    assert hub.folder(TINY) is None
    assert not [path for path in hub.cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    server.garbles = False
    assert files_below(hub.fetch(TINY)) == NEEDED


def test_a_silent_hub_is_given_up_in_time(tmp_path: Path) -> None:
    with silent() as endpoint:
        began = time.perf_counter()
        with pytest.raises(HubUnreachable, match=r"does not answer within 0\.5 s.*--model mini.*--model \./folder"):
            Hub(endpoint, tmp_path, answer_s=0.5).fetch(TINY)
        assert time.perf_counter() - began < BUSY_S


def test_a_slow_list_is_asked_for_once_more(server: FakeHub, tmp_path: Path) -> None:
    server.pause_s = 0.04  # twenty times, each time
    hub = Hub(server.endpoint, tmp_path, answer_s=0.5)
    assert hub.files(TINY).files
    assert len(server.asked) == 2


def test_a_hub_that_drips_is_given_up_in_time(server: FakeHub, tmp_path: Path) -> None:
    """Every byte comes in time, the answer does not."""
    server.pause_s = 0.3
    began = time.perf_counter()
    with pytest.raises(HubUnreachable, match=r"does not answer within 0\.5 s"):
        Hub(server.endpoint, tmp_path, answer_s=0.5).fetch(TINY)
    assert time.perf_counter() - began < BUSY_S


def test_a_refusing_hub_is_said_to_be_out_of_reach(tmp_path: Path) -> None:
    with pytest.raises(HubUnreachable, match=r"cannot be reached \(.*refused.*--model mini"):
        Hub(refusing(), tmp_path).fetch(TINY)


def test_an_unknown_host_is_said_to_be_out_of_reach(tmp_path: Path) -> None:
    with pytest.raises(HubUnreachable, match=r"hub\.invalid"):
        Hub("https://hub.invalid", tmp_path).fetch(TINY)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_in_trouble_is_unreachable(status: int, hub: Hub, server: FakeHub) -> None:
    server.status = status
    with pytest.raises(HubUnreachable, match=f"answers {status}: use --model mini"):
        hub.fetch(TINY)


@pytest.mark.parametrize("answer", [b"<html>log in to the hotel's network</html>", b"[]", b'{"siblings": 3}'])
def test_something_else_than_a_hub_is_unreachable(answer: bytes, hub: Hub, server: FakeHub) -> None:
    server.answer = answer
    with pytest.raises(HubUnreachable, match=r"does not answer (in JSON|like a Hugging Face hub)"):
        hub.fetch(TINY)


def test_a_repository_that_is_not_there_is_not_found(hub: Hub) -> None:
    with pytest.raises(ModelNotFound, match=r"no model 'somebody/else' for you \(status 404"):
        hub.fetch("somebody/else")


def test_a_repository_of_another_layout_is_not_found(hub: Hub, server: FakeHub) -> None:
    server.models[TINY] = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    with pytest.raises(ModelNotFound, match="open_clip ONNX layout"):
        hub.fetch(TINY)


@pytest.mark.parametrize("status", [401, 403])
def test_a_file_that_is_not_for_everyone_ends_at_once_with_what_to_do(status: int, hub: Hub, server: FakeHub) -> None:
    server.file_status = status
    with pytest.raises(ModelNotFound, match=rf"answers {status}: .* ask for access at {server.endpoint}/{TINY}"):
        hub.fetch(TINY)
    assert len(server.fetched()) <= 4  # those at once, none twice


def test_the_token_stays_on_redirects_of_the_hub_itself(server: FakeHub, tmp_path: Path) -> None:
    """The hub answers small files by 307 to another path of its own."""
    server.resolves_cached, server.needed_token = True, "Bearer secret"
    Hub(server.endpoint, tmp_path, token="secret").fetch(TINY)
    assert any("/api/resolve-cache/" in one.path for one in server.asked)


def test_the_picture_tower_comes_first(hub: Hub, server: FakeHub) -> None:
    hub.fetch(TINY)
    order = ["textual/" in one.path for one in server.fetched()]
    assert order == sorted(order)


def test_a_hub_that_asks_for_patience_gets_it(hub: Hub, server: FakeHub) -> None:
    server.busy_files = 3
    assert files_below(hub.fetch(TINY)) == NEEDED


def test_files_come_over_kept_connections(hub: Hub, server: FakeHub) -> None:
    hub.fetch(TINY)
    assert len(server.clients) <= 1 + 4  # one for the list, and those at once


def test_what_hf_download_fetched_is_found(server: FakeHub, tmp_path: Path) -> None:
    top = tmp_path / "hf" / "models--somebody--tiny"
    snapshot = top / "snapshots" / COMMIT
    shutil.copytree(GOLDEN_CLIP, snapshot)
    (top / "refs").mkdir()
    (top / "refs" / "main").write_text(COMMIT)
    hub = Hub(server.endpoint, tmp_path / "cache", hf_cache=tmp_path / "hf")
    assert hub.fetch(TINY) == snapshot
    assert server.asked == []
    (top / "blobs").mkdir()
    (top / "blobs" / "abc.incomplete").touch()
    assert hub.folder(TINY) is None
    (top / "blobs" / "abc.incomplete").unlink()
    (snapshot / "textual" / "model.onnx").unlink()
    assert hub.folder(TINY) is None


def test_the_environment_counts_in_python_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "SIGHTLINE_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "token").write_text("from the login\n")
    hub = Hub.from_environment()
    assert (hub.endpoint, hub.cache, hub.offline) == ("https://mirror.example", tmp_path / "cache", False)
    assert (hub.token, hub.hf_cache) == ("from the login", tmp_path / "hub")
    monkeypatch.setenv("HF_TOKEN", "mine")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "else"))
    monkeypatch.setenv("SIGHTLINE_OFFLINE", "1")
    hub = Hub.from_environment()
    assert (hub.token, hub.hf_cache, hub.offline) == ("mine", tmp_path / "else", True)
    assert "mine" not in repr(hub)
    monkeypatch.setenv("SIGHTLINE_OFFLINE", "1")
    with pytest.raises(HubUnreachable, match="offline mode is on"):
        load_encoder(BEST.name)


@pytest.mark.parametrize("status", [429, 503])
def test_auto_never_takes_the_bundled_model_because_the_hub_is_busy(status: int, hub: Hub, server: FakeHub) -> None:
    server.status = status
    with pytest.raises(HubUnreachable, match=f"answers {status}: use --model mini"):
        choose_model("auto", hub)


def test_auto_never_takes_the_bundled_model_when_the_better_one_is_here_in_part(tmp_path: Path) -> None:
    (tmp_path / "models" / f"{BEST.repository.replace('/', '--')}.part-abc").mkdir(parents=True)
    with pytest.raises(HubUnreachable, match=f"a part of {BEST.name} is on this disk"):
        choose_model("auto", Hub(refusing(), tmp_path))


def test_offline_asks_nobody(server: FakeHub, tmp_path: Path) -> None:
    offline = Hub(server.endpoint, tmp_path, offline=True)
    with pytest.raises(HubUnreachable, match=r"offline mode is on.*--model mini"):
        offline.fetch(TINY)
    folder = Hub(server.endpoint, tmp_path).fetch(TINY)
    server.asked.clear()
    assert offline.fetch(TINY) == folder
    assert server.asked == []


def test_the_token_goes_to_the_hub_and_not_to_where_it_sends_us(server: FakeHub, tmp_path: Path) -> None:
    with running(FakeHub(models=server.models)) as store:
        server.elsewhere = store.endpoint
        Hub(server.endpoint, tmp_path, token="secret").fetch(TINY)
        assert {one.token for one in server.asked} == {"Bearer secret"}
        assert {one.token for one in store.asked} == {""}
        assert len(store.asked) == len(NEEDED)
    assert "secret" not in repr(Hub(token="secret"))


def test_two_fetches_at_once_download_once(server: FakeHub, tmp_path: Path) -> None:
    hub = Hub(server.endpoint, tmp_path)
    found = list[Path]()
    threads = [threading.Thread(target=lambda: found.append(hub.fetch(TINY))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 4
    assert len(server.fetched()) == len(NEEDED)


def test_a_cache_that_cannot_be_written_is_an_error(server: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EncoderError, match="cannot be written"):
        Hub(server.endpoint, tmp_path / "file").fetch(TINY)


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(UsageError, match="expected an address"):
        Hub("file:///etc")


def test_the_default_cache_is_below_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert default_cache().is_relative_to(tmp_path)


def test_auto_takes_the_recommended_model_from_a_hub_that_answers(hub: Hub) -> None:
    choice = choose_model("auto", hub)
    assert choice.name == BEST.name
    assert hub.endpoint in choice.reason
    encoder = load_encoder("auto", hub=hub)
    assert (encoder.name, encoder.dim) == (BEST.name, 16)


def test_auto_takes_the_recommended_model_from_the_disk_without_asking(hub: Hub, server: FakeHub) -> None:
    hub.fetch(BEST.repository)
    server.asked.clear()
    assert choose_model("auto", hub) == Choice(BEST.name, "the recommended model, found on this disk")
    assert server.asked == []


def test_auto_takes_the_bundled_model_when_the_hub_is_silent(tmp_path: Path) -> None:
    with silent() as endpoint:
        began = time.perf_counter()
        choice = choose_model("auto", Hub(endpoint, tmp_path, answer_s=0.5))
        assert time.perf_counter() - began < BUSY_S
    assert choice.name == "mini"
    assert f"{BEST.name} is not on this disk and {endpoint} does not answer within 0.5 s" in choice.reason


def test_auto_takes_the_bundled_model_offline(tmp_path: Path) -> None:
    choice = choose_model("auto", Hub(cache=tmp_path, offline=True))
    assert choice.name == "mini"
    assert "offline mode is on" in choice.reason


def test_another_name_than_auto_is_taken_as_it_is(tmp_path: Path) -> None:
    assert choose_model("clip-b32", Hub(cache=tmp_path, offline=True)) == Choice("clip-b32", "")


def test_the_catalog_knows_what_is_here(hub: Hub) -> None:
    assert is_here(catalog()["pixels"], hub)
    assert not is_here(BEST, hub)
    hub.fetch(BEST.repository)
    assert is_here(BEST, hub)
