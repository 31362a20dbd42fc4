"""The name of a captioning model -> something that says what pictures show: BLIP by transformers, CoCa by open_clip.

BLIP (Li et al. 2022, arXiv:2201.12086) and CoCa (Yu et al. 2022, arXiv:2205.01917) are fetched by their own libraries
into those libraries' cache, once.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL.Image import Image

from sightline.encoders.hub import Hub
from sightline.errors import EncoderError, HubUnreachable, ModelNotFound, UsageError
from sightline.train.device import choose_device

BLIP = "blip:Salesforce/blip-image-captioning-base"
COCA = "coca:coca_ViT-L-14/mscoco_finetuned_laion2b_s13b_b90k"
MOST_TOKENS = 30
BEAMS = 3


class Captioner(Protocol):
    """Says what pictures show."""

    @property
    def image_size(self) -> int:
        """The side in pixels that it looks at: a picture may be decoded at reduced scale down to twice this."""

    def captions(self, pictures: Sequence[Image]) -> list[str]:
        """RGB pictures -> one caption each."""


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
    from transformers import BlipForConditionalGeneration, BlipProcessor

    where: dict[str, Any] = {"local_files_only": True}
    try:
        processor = BlipProcessor.from_pretrained(name, **where)
    except (OSError, ValueError) as error:
        if Path(name).is_dir():
            raise ModelNotFound(
                f"{name} holds no BLIP model ({_first_line(error)}): expected one as transformers saves it, "
                f"config.json, weights, tokenizer and preprocessor; check the folder, or use {BLIP}"
            ) from error
        _see_that_it_can_be_fetched(name, hub)
        where = {}
    try:
        processor = BlipProcessor.from_pretrained(name, **where)
        model = BlipForConditionalGeneration.from_pretrained(name, **where)
    except (OSError, ValueError, RuntimeError) as error:
        raise EncoderError(
            f"{name} cannot be loaded ({_first_line(error)}): expected a BLIP model; "
            f"fetch it again, or use a folder with one, or {BLIP}"
        ) from error
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
    import open_clip

    config = open_clip.pretrained.get_pretrained_cfg(name, weights)
    if not config:
        known = [f"coca:{one}/{tag}" for one, tag in open_clip.list_pretrained() if one.startswith("coca")]
        raise ModelNotFound(f"open_clip has no model coca:{name}/{weights}: expected one of {', '.join(known)}")
    repository = str(config["hf_hub"]).rstrip("/")
    if not _is_here(repository):
        _see_that_it_can_be_fetched(repository, hub)
    try:
        model, _, transform = open_clip.create_model_and_transforms(name, weights)
    except (OSError, RuntimeError) as error:
        raise EncoderError(f"coca:{name}/{weights} cannot be loaded ({_first_line(error)}): try again") from error
    return coca(model, transform)


def coca(model: Any, transform: Any) -> Captioner:
    """A CoCa of open_clip, with the transform that belongs to it, as a captioner."""
    import open_clip

    size = model.visual.image_size
    side = max(size) if isinstance(size, tuple) else int(size)
    return _Coca(model.eval().to(choose_device("auto")), transform, open_clip.get_tokenizer("coca_ViT-L-14"), side)


def _is_here(repository: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    names = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(repository, name), str) for name in names)


def _see_that_it_can_be_fetched(repository: str, hub: Hub) -> None:
    """Asks the hub, which takes seconds; the libraries would try again for minutes."""
    try:
        with suppress(ModelNotFound):  # it answers, and has no ONNX there; what is wrong else, the library says
            hub.files(repository)
    except HubUnreachable as error:
        happened = str(error).partition(": ")[0]
        raise HubUnreachable(
            f"the captioning model {repository} is not on this disk and {happened}, expected it here or a hub that "
            "answers: fetch it once where there is a network, or name a folder with a BLIP model (--model ./folder)"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
