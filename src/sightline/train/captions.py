"""`sightline caption`: a table of captions for a folder of pictures, by BLIP of transformers or CoCa of open_clip.

BLIP (Li et al. 2022, arXiv:2201.12086) and CoCa (Yu et al. 2022, arXiv:2205.01917) are fetched by their own libraries
into those libraries' cache, once.
"""

import os
from collections.abc import Callable, Iterator, Sequence
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
from sightline.types import Item

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


@dataclass(frozen=True, slots=True)
class _Task:
    """A picture to be captioned, and what the table calls it."""

    name: str
    item: Item


def caption(
    folder: Path, table: Path, captioner: Captioner, *, batch_size: int = 8, listen: Listener = lambda _: None
) -> CaptionProgress:
    """Captions every picture below `folder` that `table` does not have yet; names are relative to the folder.

    Each batch is on the disk before the next begins: a kill loses one batch at most, and the same command goes on.
    Pictures that cannot be read are reported and tried again the next time. Raises `SourceError` for a folder that
    cannot be read, or a table that is another one or cannot be written.
    """
    known = _known(table)
    root = folder if folder.is_dir() else folder.parent
    tasks, refused = _tasks(folder, Path(os.path.abspath(root)))  # noqa: PTH100  links in it stay as they are
    fresh = [task for task in tasks if task.name not in known]
    done = CaptionProgress(total=len(tasks) + len(refused), kept=len(tasks) - len(fresh), failed=tuple(refused))
    listen(done)
    for start in range(0, len(fresh), batch_size):
        rows, failed = _batch(fresh[start : start + batch_size], captioner)
        _append(table, "".join(f"{name}\t{text}\n" for name, text in rows))
        done = replace(done, written=done.written + len(rows), failed=(*done.failed, *failed))
        listen(done)
    return done


def _batch(tasks: Sequence[_Task], captioner: Captioner) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Rows of the table, and failures with their reasons."""
    pictures, failed = list[tuple[_Task, Image]](), list[tuple[str, str]]()
    for task in tasks:
        try:
            pictures.append((task, read(task.item.read(), image_size=captioner.image_size)))
        except (OSError, SourceError, ImageError) as error:
            failed.append((task.item.uri, str(error)))
    if not pictures:
        return [], failed
    try:
        said = captioner.captions([picture for _, picture in pictures])
    except RuntimeError as error:  # torch has no narrower class for what a device refuses
        raise EncoderError(
            f"the captioning model failed on {len(pictures)} pictures ({error}), expected a caption for each: "
            "try a smaller --batch; what is written is kept"
        ) from error
    rows = [(task.name, " ".join(text.split())) for (task, _), text in zip(pictures, said, strict=True)]
    silent = [task.item.uri for (task, _), (_, text) in zip(pictures, rows, strict=True) if not text]
    return [row for row in rows if row[1]], [*failed, *((uri, "the model says nothing of it") for uri in silent)]


def _tasks(folder: Path, root: Path) -> tuple[list[_Task], list[tuple[str, str]]]:
    """The pictures, and those whose names no table can hold."""
    tasks, refused = list[_Task](), list[tuple[str, str]]()
    for item in open_source(folder):
        name = path_of(item.uri).relative_to(root).as_posix()
        if "\t" in name or len(name.splitlines()) != 1 or not _is_utf8(name):
            refused.append((item.uri, "its name has a tab, a line break or no valid UTF-8: rename it"))
        else:
            tasks.append(_Task(name, item))
    return tasks, refused


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


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
    return set(_names(whole))


def _names(text: str) -> Iterator[str]:
    for line in text.split("\n")[1:]:
        name, _, said = line.partition("\t")
        if said.strip():
            yield name


def _append(table: Path, rows: str) -> None:
    """In one write that is on the disk when it returns."""
    try:
        with table.open("a", encoding="utf-8", newline="") as file:
            file.write(rows if file.tell() else HEADER + rows)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise SourceError(
            f"{table} cannot be written ({error.strerror}), expected room and permission: mend that and run the "
            "same command, which goes on"
        ) from error


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
    raise UsageError(f"{name!r} is no captioning model: expected {BLIP}, {COCA}, or a folder with a BLIP model")


@dataclass(frozen=True, slots=True)
class _Blip:
    """BLIP in transformers."""

    model: Any
    processor: Any
    image_size: int

    @torch.inference_mode()
    def captions(self, pictures: Sequence[Image]) -> list[str]:
        inputs = self.processor(images=list(pictures), return_tensors="pt").to(self.model.device)
        tokens = self.model.generate(**inputs, max_new_tokens=MOST_TOKENS, num_beams=BEAMS)
        said: list[str] = self.processor.batch_decode(tokens, skip_special_tokens=True)
        return said


def _blip(name: str, hub: Hub) -> Captioner:
    transformers = library("transformers")
    is_folder = Path(name).is_dir()
    if is_folder and not (Path(name) / "config.json").is_file():
        raise ModelNotFound(
            f"{name} holds no BLIP model: expected one as transformers saves it, config.json, weights, tokenizer and "
            f"preprocessor; check the folder, or use {BLIP}"
        )
    there = nullcontext() if is_folder else files_of(name, ["config.json"], hub)
    with there, loading(name):
        processor = transformers.BlipProcessor.from_pretrained(name)
        model = transformers.BlipForConditionalGeneration.from_pretrained(name)
    side = int(model.config.vision_config.image_size)
    return _Blip(model.eval().to(choose_device("auto")), processor, side)


@dataclass(frozen=True, slots=True)
class _Coca:
    """CoCa in open_clip, with a decoder of our own: open_clip's needs a transformers before version 5."""

    model: Any
    transform: Any
    tokenizer: Any
    image_size: int

    @torch.inference_mode()
    def captions(self, pictures: Sequence[Image]) -> list[str]:
        """The likeliest next token, until all captions have ended."""
        device = next(self.model.parameters()).device
        pixels = torch.stack([self.transform(picture) for picture in pictures]).to(device)
        latent, seen = self.model._encode_image(pixels)
        start, end = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        tokens = torch.full((len(pixels), 1), start, device=device)
        for _ in range(MOST_TOKENS):
            scores = self.model(None, tokens, image_latent=latent, image_embs=seen, output_labels=False)["logits"]
            following = scores[:, -1].argmax(dim=-1, keepdim=True)  # (n, length, vocabulary) -> (n, 1)
            tokens = torch.cat([tokens, following], dim=1)
            if bool((tokens == end).any(dim=1).all()):
                break
        return [self._words(row.tolist(), end) for row in tokens[:, 1:]]

    def _words(self, ids: Sequence[int], end: int) -> str:
        text: str = self.tokenizer.decode(ids[: ids.index(end)] if end in ids else ids)
        return text


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
    """A CoCa of open_clip, with the transform that belongs to it, as a captioner."""
    size = model.visual.image_size
    side = max(size) if isinstance(size, tuple) else int(size)
    return _Coca(
        model.eval().to(choose_device("auto")), transform, library("open_clip").get_tokenizer("coca_ViT-L-14"), side
    )
