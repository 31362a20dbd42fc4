"""A run's state -> one file that survives a kill, and back, refusing a run with other settings."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sightline.errors import TrainingError
from sightline.files import replacing
from sightline.train.config import difference

NAME = "checkpoint.pt"
# These may change between a run and its continuation: they do not touch the weights.
FREE = ("output", "precision", "device", "evaluate_every_steps", "checkpoint_every_steps", "largest_general_loss")


def save(folder: Path, state: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Writes the checkpoint beside the old one and then swaps them. Raises `TrainingError` when the disk is full."""
    path = folder / NAME
    try:
        with replacing(path) as part, part.open("wb") as file:
            torch.save({"state": dict(state), "settings": json.dumps(settings)}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch reports a short write as RuntimeError
        raise TrainingError(
            f"{path} cannot be written ({error}): expected room for a checkpoint; free some and run the same command, "
            "which goes on from the last good one"
        ) from error


def load(folder: Path, settings: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The state of an unfinished run in `folder`, or None. Raises `TrainingError` naming settings that changed."""
    path = folder / NAME
    if not path.is_file():
        return None
    document = read(path)
    changed = difference(_fixed(json.loads(document["settings"])), _fixed(json.loads(json.dumps(settings))))
    if changed:
        raise TrainingError(
            f"{path} was made with other settings ({'; '.join(changed)}): expected the same; "
            "restore them, or choose another output, or remove the file to start afresh"
        )
    state: Mapping[str, Any] = document["state"]
    return state


def read(path: Path) -> Mapping[str, Any]:
    """A checkpoint as it was saved: `state`, and `settings` as JSON. Raises `TrainingError` when it is damaged."""
    try:
        document: Mapping[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise TrainingError(f"{path} is damaged ({error}): expected a checkpoint; remove it to start afresh") from error
    return document


def _fixed(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in FREE}
