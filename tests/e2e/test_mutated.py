"""Damaged pictures of every format: each decodes, or fails with a reason, within time and memory; nothing crashes."""

import os
import random
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from tests.pictures import scene

LIMIT_BYTES = 3 << 30  # of address space: 1 GiB of pixels at most, libraries, and a buffer of the same again
LIMIT_S = 20

PROGRAM = """
import json, resource, signal, sys
from pathlib import Path
from sightline.errors import ImageError
from sightline.images.read import open_picture, read, thumbnail

read(Path(sys.argv[1], "0.bin").read_bytes(), image_size=96)
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
signal.signal(signal.SIGALRM, lambda *_: sys.exit("too slow"))
for path in sorted(Path(sys.argv[1]).glob("*.bin"), key=lambda path: int(path.stem)):
    print(path.stem, end=" ", flush=True)
    signal.alarm(int(sys.argv[3]))
    try:
        picture = open_picture(path.read_bytes(), image_size=224)
        assert picture.image.mode == "RGB" and min(picture.image.size) > 0
        json.dumps(picture.payload, default=str)
        thumbnail(path.read_bytes(), 320)
        print("decoded", flush=True)
    except ImageError as error:
        assert str(error) and "\\n" not in str(error), str(error)
        print("refused", flush=True)
    signal.alarm(0)
"""


def originals() -> list[bytes]:
    """A small picture in every format and most of their kinds."""
    whole, exif = scene(3, (120, 90)), Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x0132] = "Maker", 6, "2024:05:01 12:00:00"
    frames = [scene(number, (60, 44)) for number in range(3)]
    found = list[bytes]()

    def saved(image: Image.Image, file_format: str, **options: object) -> None:
        buffer = BytesIO()
        image.save(buffer, file_format, **options)
        found.append(buffer.getvalue())

    for options in (
        {},
        {"progressive": True},
        {"exif": exif, "subsampling": 0},
        {"quality": 30, "restart_marker_rows": 1},
    ):
        saved(whole, "JPEG", **options)
    saved(whole.convert("CMYK"), "JPEG")
    saved(whole.convert("L"), "JPEG")
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        saved(Image.new("I;16", (120, 90), 700) if mode == "I;16" else whole.convert(mode), "PNG", exif=exif)
    saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    saved(frames[0], "GIF", save_all=True, append_images=frames[1:], transparency=3)
    saved(whole, "WEBP", exif=exif)
    saved(whole.convert("RGBA"), "WEBP", lossless=True)
    saved(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        saved(whole, "TIFF", compression=compression)
    saved(whole.convert("1"), "TIFF", compression="group4")
    saved(whole.convert("F"), "TIFF")
    saved(whole, "BMP")
    saved(whole.convert("P"), "BMP")
    saved(whole, "PPM")
    saved(whole, "AVIF", exif=exif)
    return found


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Flipped bits, a lie in the header, an end that is missing, parts that changed places, were lost or doubled."""
    changed, kind = bytearray(data), chance.randrange(6)
    size = len(changed)
    if kind == 0:
        for _ in range(chance.choice((1, 3, 20))):
            changed[chance.randrange(size)] ^= 1 << chance.randrange(8)
    elif kind == 1:
        at = chance.randrange(min(size, 200))
        lie = chance.choice((b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4), b"\0\0\xff\xff", chance.randbytes(4)))
        changed[at : at + 4] = lie
    elif kind == 2:
        del changed[chance.randrange(size) :]
    elif kind == 3:
        first, second, third = sorted(chance.randrange(size) for _ in range(3))
        changed[first:third] = changed[second:third] + changed[first:second]
    elif kind == 4:
        at = chance.randrange(size)
        del changed[at : at + chance.choice((1, 4, 64, 1000))]
    else:
        at = chance.randrange(size)
        changed[at:at] = changed[at : at + chance.choice((8, 64, 1000))] * chance.choice((1, 50))
    return bytes(changed)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of memory and time are POSIX's")
@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.timeout(900)
def test_every_damaged_picture_decodes_or_fails_with_a_reason(tmp_path: Path, count: int) -> None:
    chance, whole = random.Random(count), originals()
    for number in range(count):
        data = whole[number % len(whole)]
        (tmp_path / f"{number}.bin").write_bytes(mutated(data, chance) if number else data)
    program = [sys.executable, "-c", PROGRAM, str(tmp_path), str(LIMIT_BYTES), str(LIMIT_S)]
    done = subprocess.run(
        program, capture_output=True, text=True, check=False, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    )
    told = done.stdout.splitlines()
    assert done.returncode == 0, (told[-1:], done.stderr[-3000:])
    assert len(told) == count
    assert "Traceback" not in done.stderr
    outcomes = [line.split()[1] for line in told]
    assert min(outcomes.count("decoded"), outcomes.count("refused")) > count // 10
