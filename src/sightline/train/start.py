"""What the settings name as a start -> a model to train, how it reads texts and pictures, and how it is written."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sightline.encoders.hub import Hub
from sightline.train.config import DataSettings, Precision, Settings
from sightline.train.own.model import Towers
from sightline.train.pictures import Pictures

BUNDLED = Path(__file__).parent.parent / "encoders" / "mini"
Say = Callable[[str], None]


class Start(Protocol):
    """Weights to begin with and everything that depends on where they came from."""

    @property
    def model(self) -> Towers:
        """The model, not trained yet."""

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, without padding."""

    def training_pictures(self, data: DataSettings, paths: Sequence[Path], name: str, say: Say) -> Pictures:
        """Pictures to learn from; `say` is told what takes minutes."""

    def measuring_pictures(self, paths: Sequence[Path]) -> Pictures:
        """Pictures as the model sees them in use."""

    def write(self, model: Towers, folder: Path, precision: Precision, calibration: Sequence[Path]) -> None:
        """The trained model as a folder that searches can use; a frozen image tower is taken over byte for byte."""

    def description(self) -> Mapping[str, Any]:
        """What a checkpoint must hold besides weights so that the model can be made from it alone; plain values."""


def open_start(settings: Settings, base: Path, texts: Sequence[str], hub: Hub | None = None) -> Start:
    """The start that the settings name, on the device that they name; `texts` decide what a new vocabulary holds."""
    from sightline.train.clips import start as clips  # both import this file
    from sightline.train.own import start as own

    name = settings.start.model
    if clips.is_clip(name, base):
        return clips.open_clip_start(settings, base, hub)
    return own.open_own_start(settings, base, texts)
