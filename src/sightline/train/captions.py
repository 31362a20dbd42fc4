"""`sightline caption`: a table of captions for a folder of pictures, by BLIP of transformers or CoCa of open_clip.

BLIP (Li et al. 2022, arXiv:2201.12086) and CoCa (Yu et al. 2022, arXiv:2205.01917) are fetched by their own libraries
into those libraries' cache, once.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL.Image import Image

from sightline.encoders.hub import Hub
from sightline.encoders.torch.libraries import files_of, library, loading
from sightline.errors import EncoderError, ImageError, ModelNotFound, SourceError, UsageError
from sightline.images.read import read
from sightline.sources.base import open_source
from sightline.sources.files import path_of
from sightline.train.model import choose_device
from sightline.types import Item, chunks

BLIP = "blip:Salesforce/blip-image-captioning-base"
COCA = "coca:coca_ViT-L-14/mscoco_finetuned_laion2b_s13b_b90k"
MOST_TOKENS = 30
BEAMS = 3
_COCA_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
HEADER = "image\tcaption\n"


class Captioner(Protocol):
    """Says what pictures show."""

    @property
    def image_size(self) -> int:
        """The side in pixels that it looks at: a picture may be decoded at reduced scale down to twice this."""

    def captions(self, pictures: Sequence[Image]) -> list[str]:
        """RGB pictures -> one caption each."""


@dataclass(frozen=True, slots=True)
class CaptionProgress:
    """How far a run is, in pictures: `kept` had a caption before, `failed` are uri and reason of the others."""

    total: int = 0
    written: int = 0
    kept: int = 0
    failed: tuple[tuple[str, str], ...] = ()


Listener = Callable[[CaptionProgress], None]


def caption(
    folder: Path, table: Path, captioner: Captioner, *, batch_size: int = 8, listen: Listener = lambda _: None
) -> CaptionProgress:
    """Captions every picture below `folder` that `table` does not have yet; names are relative to the folder.

    Each batch is on the disk before the next begins: a kill loses one batch at most, and the same command goes on.
    Pictures that cannot be read are reported and tried again the next time. Raises `SourceError` for a folder that
    cannot be read, or a table that is another one or cannot be written.
    """
    known = _known(table)
    root = Path(os.path.abspath(folder if folder.is_dir() else folder.parent))  # noqa: PTH100  links stay as they are
    items, refused = dict[str, Item](), list[tuple[str, str]]()
    for item in open_source(folder):
        name = path_of(item.uri).relative_to(root).as_posix()
        is_utf8 = name.encode("utf-8", "replace").decode() == name
        if "\t" in name or len(name.splitlines()) != 1 or not is_utf8:
            refused.append((item.uri, "its name has a tab, a line break or no valid UTF-8: rename it"))
        else:
            items[name] = item
    fresh = [(name, item) for name, item in items.items() if name not in known]
    done = CaptionProgress(total=len(items) + len(refused), kept=len(items) - len(fresh), failed=tuple(refused))
    listen(done)
    for batch in chunks(fresh, batch_size):
        rows, failed = _batch(batch, captioner)
        try:
            with table.open("a", encoding="utf-8", newline="") as file:
                lines = "".join(f"{name}\t{text}\n" for name, text in rows)
                file.write(lines if file.tell() else HEADER + lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SourceError(
                f"{table} cannot be written ({error.strerror}), expected room and permission: mend that and run the "
                "same command, which goes on"
            ) from error
        done = replace(done, written=done.written + len(rows), failed=(*done.failed, *failed))
        listen(done)
    return done


def _batch(
    items: Sequence[tuple[str, Item]], captioner: Captioner
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Rows of the table, and failures with their reasons."""
    read_items, pictures, failed = list[tuple[str, Item]](), list[Image](), list[tuple[str, str]]()
    for name, item in items:
        try:
            pictures.append(read(item.read(), image_size=captioner.image_size))
            read_items.append((name, item))
        except (OSError, SourceError, ImageError) as error:
            failed.append((item.uri, str(error)))
    try:
        said = captioner.captions(pictures) if pictures else []
    except RuntimeError as error:  # torch has no narrower class for what a device refuses
        raise EncoderError(
            f"the captioning model failed on {len(pictures)} pictures ({error}), expected a caption for each: "
            "try a smaller --batch; what is written is kept"
        ) from error
    rows = [(name, item, " ".join(text.split())) for (name, item), text in zip(read_items, said, strict=True)]
    failed += [(item.uri, "the model says nothing of it") for _, item, text in rows if not text]
    return [(name, text) for name, _, text in rows if text], failed


def _known(table: Path) -> set[str]:
    """The pictures that the table has a caption of. A last line that a kill cut off is taken away."""
    if not table.exists():
        return set()
    try:
        text = table.read_text("utf-8")
        if text and not text.startswith(HEADER):
            first = text.partition("\n")[0]
            raise SourceError(
                f"{table} begins with {first[:80]!r}, expected {HEADER.strip()!r}, as this command writes it: "
                "choose another --output"
            )
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            os.truncate(table, len(whole.encode()))
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{table} cannot be read ({error}), expected a captions table: choose another") from error
    rows = (line.partition("\t") for line in whole.split("\n")[1:])
    return {name for name, _, said in rows if said.strip()}


def load_captioner(name: str, *, hub: Hub) -> Captioner:
    """The model of that name: `blip:` and a repository, `coca:` and model/weights of open_clip, or a local folder.

    `hub` says whether the network may be asked. Raises `UsageError`, `ModelNotFound` or `HubUnreachable`.
    """
    family, _, rest = name.partition(":")
    if family == "blip" and rest:
        return _blip(rest, hub)
    if family == "coca" and rest.count("/") == 1:
        return _coca(*rest.split("/"), hub=hub)
    if Path(name).expanduser().is_dir():
        return _blip(str(Path(name).expanduser()), hub)
    raise UsageError(f"{name!r} is not a captioning model: expected {BLIP}, {COCA}, or a folder with a BLIP model")


@dataclass(frozen=True, slots=True)
class _Model:
    """What a library captions by."""

    image_size: int
    captions: Callable[[Sequence[Image]], list[str]]


def _blip(name: str, hub: Hub) -> Captioner:
    transformers = library("transformers")
    is_folder = Path(name).is_dir()
    if is_folder and not (Path(name) / "config.json").is_file():
        raise ModelNotFound(
            f"{name} holds no BLIP model: expected one as transformers saves it, config.json, weights, tokenizer and "
            f"preprocessor; check the folder, or use {BLIP}"
        )
    with nullcontext() if is_folder else files_of(name, ["config.json"], hub), loading(name):
        processor = transformers.BlipProcessor.from_pretrained(name)
        model = transformers.BlipForConditionalGeneration.from_pretrained(name).eval().to(choose_device("auto"))

    @torch.inference_mode()
    def captions(pictures: Sequence[Image]) -> list[str]:
        inputs = processor(images=list(pictures), return_tensors="pt").to(model.device)
        tokens = model.generate(**inputs, max_new_tokens=MOST_TOKENS, num_beams=BEAMS)
        said: list[str] = processor.batch_decode(tokens, skip_special_tokens=True)
        return said

    return _Model(int(model.config.vision_config.image_size), captions)


def _coca(name: str, weights: str, *, hub: Hub) -> Captioner:
    open_clip = library("open_clip")
    config = open_clip.get_pretrained_cfg(name, weights)
    if not config:
        known = [f"coca:{one}/{tag}" for one, tag in open_clip.list_pretrained() if one.startswith("coca")]
        raise ModelNotFound(f"open_clip has no model coca:{name}/{weights}: expected one of {', '.join(known)}")
    with files_of(str(config["hf_hub"]).rstrip("/"), _COCA_FILES, hub), loading(f"coca:{name}/{weights}"):
        model, _, transform = open_clip.create_model_and_transforms(name, weights)
    return coca(model, transform)


def coca(model: Any, transform: Any) -> Captioner:
    """A CoCa of open_clip as a captioner, with a decoder of our own: open_clip's needs a transformers before version 5.

    `transform` is the one that belongs to it.
    """
    device, tokenizer = choose_device("auto"), library("open_clip").get_tokenizer("coca_ViT-L-14")
    model.eval().to(device)
    end = tokenizer.eot_token_id

    @torch.inference_mode()
    def captions(pictures: Sequence[Image]) -> list[str]:
        """The likeliest next token, until all captions have ended."""
        latent, seen = model._encode_image(torch.stack([transform(picture) for picture in pictures]).to(device))
        tokens = torch.full((len(pictures), 1), tokenizer.sot_token_id, device=device)
        for _ in range(MOST_TOKENS):
            scores = model(None, tokens, image_latent=latent, image_embs=seen, output_labels=False)["logits"]
            following = scores[:, -1].argmax(dim=-1, keepdim=True)  # (n, length, vocabulary) -> (n, 1)
            tokens = torch.cat([tokens, following], dim=1)
            if bool((tokens == end).any(dim=1).all()):
                break
        rows = tokens[:, 1:].tolist()
        return [str(tokenizer.decode(row[: row.index(end)] if end in row else row)) for row in rows]

    size = model.visual.image_size
    return _Model(max(size) if isinstance(size, tuple) else int(size), captions)
