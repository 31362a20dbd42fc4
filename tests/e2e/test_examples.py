"""Every example runs as it stands."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.pictures import encoded, scene, write

EXAMPLES = Path(__file__).parents[2] / "examples"
ARGUMENTS = {
    "first_search.py": ["pictures", "a red circle"],
    "arithmetic.py": ["photos.index", "pictures/1.jpg"],
    "own_encoder.py": ["pictures"],
}
WITHOUT_PICTURES = {"split_table.py"}
PLUGS = {"sqlite_store.py"}  # contract/test_store
TUTORIALS = {
    "captions_from_urls.py",
    "flickr8k_clip.py",
    "imagenette.py",
    "shop.py",
    "web_application.py",
}  # test_tutorials


def test_every_example_is_in_the_list() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(ARGUMENTS) | WITHOUT_PICTURES | PLUGS | TUTORIALS


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_example_runs_and_prints_hits(name: str, tmp_path: Path) -> None:
    for number in range(6):
        write(tmp_path / "pictures", f"{number}.jpg", encoded(scene(number), "JPEG"))
    environment = os.environ | {"SIGHTLINE_OFFLINE": "1"}
    if name == "arithmetic.py":
        command = [sys.executable, "-m", "sightline", "index", "pictures", "--model", "mini"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, env=environment)
    command = [sys.executable, str(EXAMPLES / name), *ARGUMENTS[name]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "file:///" in done.stdout


def test_a_table_is_shared_out_as_holding_out_does_and_captions_of_a_picture_stay_together(tmp_path: Path) -> None:
    captions = [f'{number}.jpg\t"{word}" {number}' for number in range(400) for word in ("a", "the")]
    (tmp_path / "captions.tsv").write_text("\n".join(["image\tcaption", *captions]) + "\n")
    command = [sys.executable, str(EXAMPLES / "split_table.py"), "captions.tsv", "split.tsv", "100"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    header, *rows = [line.split("\t") for line in (tmp_path / "split.tsv").read_text().splitlines()]
    assert header == ["split", "image", "caption"]
    splits = {name: {image for split, image, _ in rows if split == name} for name in ("dev", "test", "train")}
    assert (len(splits["train"]), len(rows)) == (100, 2 * sum(map(len, splits.values())))
    assert {f"{image}\t{caption}" for _, image, caption in rows} <= set(captions)
    held = {f"{n}.jpg" for n in range(400) if int(hashlib.sha256(f"{n}.jpg".encode()).hexdigest(), 16) % 100 < 10}
    assert splits["dev"] | splits["test"] == held
