"""The tutorials' systems run as they stand, on pictures made here and on the engines of the tests."""

import os
import subprocess
import sys
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.engines import engine_url
from tests.pages import web
from tests.pictures import encoded, scene, write
from tests.serving import serving

EXAMPLES = Path(__file__).parents[2] / "examples"
RED, BLUE = (200, 30, 30), (30, 30, 200)
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="its models run in torch: pip install torch")


def run(folder: Path, name: str, *arguments: str) -> str:
    """What an example prints, run in a folder of its own and without a network."""
    environment = os.environ | {"SIGHTLINE_OFFLINE": "1", "SIGHTLINE_CACHE": str(folder / "cache")}
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def plain(colour: tuple[int, int, int], seed: int) -> Image.Image:
    """A picture of mostly one colour, with noise, so that no two are the same."""
    noise = np.random.default_rng(seed).integers(0, 30, (48, 48, 3))
    return Image.fromarray((np.array(colour) + noise).astype(np.uint8))


def products(folder: Path) -> tuple[str, str]:
    """Red shirts and blue shoes, by turns, and their table."""
    rows = ["image\tname\tcategory"]
    for number in range(24):
        kind, colour = ("Shirts", RED) if number % 2 else ("Shoes", BLUE)
        write(folder / "images", f"{number}.jpg", encoded(plain(colour, number), "JPEG"))
        rows.append(f"{number}.jpg\t{kind} {number}\tApparel - {kind}")
    (folder / "products.tsv").write_text("\n".join(rows) + "\n")
    return "products.tsv", "images"


def captioned(folder: Path, count: int = 6) -> None:
    """Pictures of three formats and a table with two captions for each."""
    rows = ["image\tcaption\tsplit"]
    for number in range(count):
        kind = ("JPEG", "PNG", "BMP")[number % 3]
        name = f"{number}.{kind.lower().replace('jpeg', 'jpg')}"
        write(folder / "pictures", name, encoded(scene(number), kind))
        said = "two black dogs run" if number < 2 else "a girl with long blond hair"
        rows += [f"{name}\t{said}\tdev", f"{name}\tsomething happens\tdev"]
    (folder / "captions.tsv").write_text("\n".join(rows) + "\n")


def test_a_table_of_urls_is_searched_without_its_dead_links_and_then_on_pinecone(tmp_path: Path) -> None:
    pytest.importorskip("pinecone", reason="the client is not installed: pip install 'sightline[pinecone]'")
    kinds = ["ok", "ok", "dead", "ok", "mislabelled", "ok", "moved", "ok", "ok"]
    with web(lambda path: encoded(scene(int(path.rsplit("/", 1)[1][0])), "JPEG")) as server:
        rows = [f"{server.url}/{kind}/{number}.jpg\tpicture {number}" for number, kind in enumerate(kinds)]
        (tmp_path / "captions.tsv").write_text("\n".join(["url\tcaption", *rows]) + "\n")
        url = f"{engine_url('pinecone')}/tutorial"
        said = run(tmp_path, "captions_from_urls.py", "captions.tsv", "a red circle", url)
        assert server.asked["/ok/0.jpg"] == 1  # the sheets are made from what was kept
    assert "9 rows: 7 pictures, 2 dead links" in said
    assert "/dead/2.jpg: " in said
    assert "404" in said
    assert "7 vectors of 512 dimensions there" in said
    assert "1 deleted, 6 left" in said
    assert said.rstrip().endswith("removed from the service")
    for name in ("by_words.jpg", "by_picture.jpg"):
        sheet = np.asarray(Image.open(BytesIO((tmp_path / name).read_bytes())).convert("L"))
        assert sheet.shape == (512, 480)
        for top, left in ((0, 0), (0, 240), (256, 0), (256, 240)):
            assert sheet[top : top + 240, left : left + 240].std() > 5  # a picture, not white


def test_a_shop_is_searched_by_several_strategies_and_moves_to_milvus(tmp_path: Path) -> None:
    pytest.importorskip("milvus_lite", reason="Milvus Lite is not installed: pip install 'sightline[milvus]'")
    store = f"milvus://{tmp_path.as_posix()}/shop.db?collection=shop"
    said = run(tmp_path, "shop.py", *products(tmp_path), "--model", "timm:resnet50", "--store", store)
    assert "timm:resnet50 is left out: " in said
    lines = {line.split()[0]: line for line in said.partition("precision@10")[2].splitlines()[1:] if line}
    assert lines["pixels"].endswith("100.0 %")
    assert lines["colour"].endswith("100.0 %")
    assert "24 products written to milvus, 0 were there" in said
    assert '5 pictures for "a photo of a women\'s dress"' in said
    assert (tmp_path / "shop.html").read_text("utf-8").count("<section>") == 4  # three strategies, one knows words


@pytest.mark.torch
@needs_torch
def test_a_shop_compares_a_cnn_simclr_and_clip_too(tmp_path: Path) -> None:
    from tests import towers

    from sightline.encoders.torch.libraries import quietly

    with quietly():
        names = [towers.timm_state(tmp_path), towers.simclr_checkpoint(tmp_path)]
        clip = f"hf:{towers.transformers_folder(tmp_path, 'clip')}"
    models = [part for name in [*names, clip] for part in ("--model", name)]
    said = run(tmp_path, "shop.py", *products(tmp_path), *models)
    assert "left out" not in said
    shown = said.partition("precision@10")[2]
    assert all(name in shown for name in [*names, clip])
    assert (tmp_path / "shop.html").read_text("utf-8").count("<section>") == 8  # six strategies, two know words


def test_captions_measure_the_models_that_can_be_had_and_vespa_takes_words(tmp_path: Path) -> None:
    pytest.importorskip("vespa", reason="the client is not installed: pip install 'sightline[vespa]'")
    from tests.engines.vespa import start

    captioned(tmp_path)
    url, stop = start()
    try:
        said = run(
            tmp_path, "flickr8k_clip.py", "captions.tsv", "pictures", "--split", "dev", "--vespa", f"{url}/photos"
        )
    finally:
        stop()
    for name in ("clip-rn50", "clip-rn101", "clip-rn50x4", "clip-b32", "clip-b16", "clip-l14"):
        assert f"{name} is left out: " in said
    assert "captions:dev: 6 pictures, 12 queries" in said
    assert "6 pictures in Vespa" in said
    assert len(said.partition("6 pictures in Vespa")[2].strip().splitlines()) == 4
    page = (tmp_path / "models.html").read_text("utf-8")
    assert page.count("<section>") == 4
    assert page.count("data:image/webp") == 4 * 6


@pytest.mark.torch
@needs_torch
@pytest.mark.slow
def test_a_true_architecture_with_random_weights_is_measured(tmp_path: Path) -> None:
    captioned(tmp_path)
    said = run(tmp_path, "flickr8k_clip.py", "captions.tsv", "pictures", "--model", "mini", "--random", "RN50")
    assert "open_clip:RN50@" in said
    assert (tmp_path / "models.html").read_text("utf-8").count("<section>") == 8


def test_a_picture_finds_pictures_of_its_class(tmp_path: Path) -> None:
    for number in range(16):
        kind, colour = ("golf_ball", RED) if number % 2 else ("church", BLUE)
        write(tmp_path / "train" / kind, f"{number}.jpg", encoded(plain(colour, number), "JPEG"))
    write(tmp_path, "query.jpg", encoded(plain(RED, 99), "JPEG"))
    said = run(tmp_path, "imagenette.py", "train", "query.jpg", "colour")
    assert "16 pictures, 16 encoded now" in said
    assert said.count("/golf_ball/") == 5
    assert "100.0 % of the 5 nearest are of the query's class (16 queries)" in said
    assert "data:image/webp" in (tmp_path / "similar.html").read_text("utf-8")


def test_queries_of_colour_and_number_are_judged_by_captions(tmp_path: Path) -> None:
    captioned(tmp_path)
    said = run(tmp_path, "web_application.py", "pictures", "captions.tsv", "--split", "dev")
    judged = (tmp_path / "judgements.tsv").read_text().splitlines()
    assert judged == [
        "query\timage\tgrade",
        "black dog\t0.jpg\t1",
        "black dog\t1.png\t1",
        "two dogs\t0.jpg\t1",
        "two dogs\t1.png\t1",
        *(f"a woman with blond hair\t{name}\t1" for name in ("2.bmp", "3.jpg", "4.png", "5.bmp")),
    ]
    assert "two cats 0" in said
    figures = [line.split()[-3:] for line in said.splitlines() if line.startswith("a woman with blond hair")]
    assert figures[0][:2] == ["0.400", "1.000"]  # 4 of 10, though there are only 6 pictures; all 4 found
    run(tmp_path, "web_application.py", "pictures", "captions.tsv", "--training-table", "train.tsv")
    lines = (tmp_path / "train.tsv").read_text().splitlines()
    assert lines[:2] == ["image\tcaption", "0.jpg\ttwo black dogs run"]
    assert len(lines) == 7  # what happens has no colour and no number


def test_page_and_api_answer_from_qdrant_over_pictures_of_three_formats(tmp_path: Path) -> None:
    pytest.importorskip("qdrant_client", reason="the client is not installed: pip install 'sightline[qdrant]'")
    pytest.importorskip("fastapi", reason="the server is not installed: pip install 'sightline[server]'")
    captioned(tmp_path)
    url = f"{engine_url('qdrant')}/tutorial?grpc=false"
    command = [sys.executable, "-m", "sightline", "index", "pictures", "--index", url, "--model", "mini"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    with serving(url, "--root", str(tmp_path / "pictures"), cache=tmp_path) as server:
        hits = server.ask("/api/search?q=black+dog&k=6").json["hits"]
        assert {Path(hit["uri"]).suffix for hit in hits} == {".jpg", ".png", ".bmp"}
        assert server.ask(f"/api/images/{hits[0]['id']}/thumbnail").headers["Content-Type"].startswith("image/")
        assert b"<title>" in server.ask("/").body


@pytest.mark.torch
@needs_torch
def test_fine_tuning_is_measured_before_and_after(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="export needs the train extra")
    from tests import tiny

    captioned(tmp_path, 16)
    run(tmp_path, "web_application.py", "pictures", "captions.tsv", "--training-table", "train.tsv")
    tiny.write(tmp_path / "start")
    sets = 'table = "train.tsv"\nimages = "pictures"\n'
    recipe = f'output = "tuned"\nprecision = "float32"\nstart.model = "start"\n[[data]]\n{sets}[[measure]]\n{sets}'
    recipe += "[optimiser]\nsteps = 2\nbatch_size = 8\nwarm_up_steps = 1\nwindow_slack = 1\n"
    (tmp_path / "colours.toml").write_text(recipe)
    command = [sys.executable, "-m", "sightline", "train", "colours.toml", "--may-forget"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    models = ("--model", "./start", "--model", "./tuned")
    said = run(tmp_path, "web_application.py", "pictures", "captions.tsv", *models)
    assert said.count("\nmean ") == 2
