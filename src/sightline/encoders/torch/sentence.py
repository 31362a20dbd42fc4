"""`st:clip-ViT-B-32` or `st:./folder` -> the towers inside a picture model of sentence-transformers."""

from pathlib import Path
from typing import Any

from sightline.encoders.hub import Hub
from sightline.encoders.torch.encoder import Towers
from sightline.encoders.torch.libraries import files_of, library, loading
from sightline.encoders.torch.processors import preprocessing_of
from sightline.encoders.torch.transformers import towers_of, without_bars
from sightline.errors import EncoderError, ModelNotFound

_OWNER = "sentence-transformers"
_HARMLESS = ("Normalize",)  # our vectors have norm 1 anyway


def load(rest: str, hub: Hub) -> Towers:
    """A model's name, with or without its owner, or a folder written as a path. Raises an `EncoderError`."""
    sentence_transformers = library("sentence_transformers")
    transformers = library("transformers")
    folder = Path(rest).expanduser()
    if rest.startswith((".", "/", "~")):
        folder = folder.resolve()
        if not (folder / "modules.json").is_file():
            raise ModelNotFound(f"{folder} holds no modules.json, expected a folder of {_OWNER}: check the path")
        with loading(f"st:{folder}"), without_bars(transformers):
            model = sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        return _towers(f"st:{folder}", model)
    repository = rest if "/" in rest else f"{_OWNER}/{rest}"
    with files_of(repository, ["modules.json"], hub), loading(f"st:{rest}"), without_bars(transformers):
        model = sentence_transformers.SentenceTransformer(repository, device="cpu")
    return _towers(f"st:{rest}", model)


def _towers(name: str, model: Any) -> Towers:
    first, *others = list(model)
    kinds = [type(module).__name__ for module in others if type(module).__name__ not in _HARMLESS]
    processor = getattr(getattr(first, "processor", None), "image_processor", None)
    if kinds or processor is None:
        raise EncoderError(
            f"{name} consists of {', '.join([type(first).__name__, *kinds])} and reads no pictures or changes vectors "
            "afterwards, expected a two-tower model of pictures and words: use st:clip-ViT-B-32 or its kin"
        )
    return towers_of(name, first.model, preprocessing_of(processor.to_dict(), name), first.tokenizer)
