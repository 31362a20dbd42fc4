"""`open_clip:`, `hf:`, or the folder of an earlier run from one of them -> the start of a CLIP's training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sightline.encoders.hub import Hub
from sightline.errors import TrainingError
from sightline.files import replacing
from sightline.train.clips import from_open_clip, from_transformers
from sightline.train.clips.documents import Documents
from sightline.train.clips.export import export_clip
from sightline.train.clips.loaded import Loaded, clip_of
from sightline.train.clips.towers import Clip, Parts
from sightline.train.config import IMAGE_FROZEN, DataSettings, Precision, Settings
from sightline.train.device import choose_device
from sightline.train.measure import image_vectors
from sightline.train.pictures import KeptVectors, PictureFiles, Pictures
from sightline.train.start import Say

KIND = "clip"
WEIGHTS = "weights.pt"
MOST_CALIBRATION = 96  # pictures
Loader = Callable[[str, Path, Hub | None], Loaded]
LOADERS: dict[str, Loader] = {
    "open_clip": from_open_clip.load_open_clip,
    "hf": from_transformers.load_transformers,
}
LIBRARIES: dict[str, tuple[Callable[[Mapping[str, Any]], nn.Module], Callable[[nn.Module], Parts]]] = {
    from_open_clip.LIBRARY: (from_open_clip.rebuilt, from_open_clip.parts),
    from_transformers.LIBRARY: (from_transformers.rebuilt, from_transformers.parts),
}


@dataclass(frozen=True, slots=True)
class ClipStart:
    """A CLIP of another library. Each step decodes its pictures, but where the image tower is frozen it runs once."""

    model: Clip
    documents: Documents
    rebuild: Mapping[str, Any]
    settings: Settings
    folder: Path | None = None
    """The folder of the earlier run that the weights came from."""

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, read as in use."""
        return self.documents.tokens.ids(texts)

    def training_pictures(self, data: DataSettings, paths: Sequence[Path], name: str, say: Say) -> Pictures:
        """Files that are decoded and cropped anew in each step, or the vectors of a frozen tower."""
        files = PictureFiles(paths, self.documents.preprocessing, self.settings.optimiser.smallest_crop)
        if self.settings.mode not in IMAGE_FROZEN:
            return files
        say(f"{name}: the frozen image tower runs once, {len(paths):,} pictures")
        return self._kept(files)

    def measuring_pictures(self, paths: Sequence[Path]) -> Pictures:
        """Files as they are, or the vectors of a frozen tower."""
        files = PictureFiles(paths, self.documents.preprocessing, 1.0)
        return self._kept(files) if self.settings.mode in IMAGE_FROZEN else files

    def write(self, model: Any, folder: Path, precision: Precision, calibration: Sequence[Path]) -> None:
        """The model folder, and the torch weights beside it, to train on or to export from."""
        self.export(model, folder, precision, calibration)
        save_weights(folder / WEIGHTS, self.description(), model)

    def export(self, model: Any, folder: Path, precision: Precision, calibration: Sequence[Path]) -> None:
        """The model folder alone."""
        frozen = self.folder if self.settings.mode in IMAGE_FROZEN else None
        files = PictureFiles(calibration, self.documents.preprocessing, 1.0)
        needs_pixels = precision == "int8" and not frozen and calibration
        pixels = files.plain(0, MOST_CALIBRATION).numpy() if needs_pixels else None
        export_clip(model, self.documents, folder, precision, calibration=pixels, image_tower_of=frozen)

    def description(self) -> Mapping[str, Any]:
        """The library, the model's config there, and the documents."""
        return {"kind": KIND, "rebuild": dict(self.rebuild), "documents": self.documents.plain()}

    def _kept(self, files: PictureFiles) -> KeptVectors:
        with torch.no_grad():
            return KeptVectors(image_vectors(self.model.eval(), files))


def is_clip(name: str, base: Path) -> bool:
    """Whether a start is one of these, by its name or by what its folder holds."""
    return name.partition(":")[0] in LOADERS or (bool(name) and (base / name / WEIGHTS).is_file())


def open_clip_start(settings: Settings, base: Path, hub: Hub | None = None) -> ClipStart:
    """The start that the settings name, on their device. Raises `TrainingError`."""
    name, device = settings.start.model, choose_device(settings.device)
    torch.manual_seed(settings.seed)
    if (base / name / WEIGHTS).is_file():
        description, state = read_weights(base / name / WEIGHTS)
        start = described(description, settings, base / name)
        start.model.load_state_dict(state)
        start.model.to(device)
        return start
    loaded = load(name, base, hub)
    model = loaded.clip().to(device)
    return ClipStart(model, loaded.documents, loaded.rebuild, settings)


def load(name: str, base: Path, hub: Hub | None = None) -> Loaded:
    """The library's own model of a name such as `open_clip:ViT-B-32`."""
    library, _, rest = name.partition(":")
    return LOADERS[library](rest, base, hub)


def described(description: Mapping[str, Any], settings: Settings, folder: Path | None = None) -> ClipStart:
    """The start that `description` tells of, with random weights."""
    rebuild, documents = description["rebuild"], Documents(**description["documents"])
    make, take_apart = LIBRARIES[rebuild["library"]]
    is_causal = bool(documents.config["text_cfg"].get("masks_padding"))
    model = clip_of(take_apart(make(rebuild)), documents, is_causal=is_causal)
    return ClipStart(model, documents, rebuild, settings, folder)


def save_weights(path: Path, description: Mapping[str, Any], model: Clip) -> None:
    """Writes description and weights. Raises `TrainingError` when they cannot be written."""
    try:
        with replacing(path) as part:
            torch.save({"model": dict(description), "state": model.state_dict()}, part)
    except (OSError, RuntimeError) as error:  # torch reports a short write as RuntimeError
        raise TrainingError(f"{path} cannot be written ({error}): expected room for the weights; free some") from error


def read_weights(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What `save_weights` wrote: description and weights."""
    try:
        document = torch.load(path, weights_only=True, map_location="cpu")
        return document["model"], document["state"]
    except Exception as error:
        raise TrainingError(f"{path} is damaged ({error}): expected weights of a run; train again") from error
