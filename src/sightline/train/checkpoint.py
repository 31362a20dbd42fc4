"""The files of a run: its state, which survives a kill and refuses other settings, and the weights it ends with."""

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
WEIGHTS = "weights.pt"
# These may change between a run and its continuation: they do not touch the weights.
FREE = ("output", "precision", "device", "evaluate_every_steps", "checkpoint_every_steps", "largest_general_loss")


def save(folder: Path, state: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Writes the checkpoint beside the old one and then swaps them. Raises `TrainingError` when the disk is full."""
    _write(folder / NAME, {"state": dict(state), "settings": json.dumps(settings)})


def save_weights(folder: Path, description: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """Writes a finished model's description and weights. Raises `TrainingError` when the disk is full."""
    _write(folder / WEIGHTS, {"model": dict(description), "state": dict(weights)})


def load(folder: Path, settings: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The state of an unfinished run in `folder`, or None. Raises `TrainingError` naming settings that changed."""
    path = folder / NAME
    if not path.is_file():
        return None
    document = _read(path)
    before, now = (
        {name: value for name, value in one.items() if name not in FREE}
        for one in (json.loads(document["settings"]), json.loads(json.dumps(settings)))
    )
    changed = difference(before, now)
    if changed:
        raise TrainingError(
            f"{path} was made with other settings ({'; '.join(changed)}): expected the same; "
            "restore them, or choose another output, or remove the file to start afresh"
        )
    state: Mapping[str, Any] = document["state"]
    return state


def read_weights(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Description and weights of a finished run, or of an unfinished one: the moving average of its last checkpoint.

    Raises `TrainingError` when the file is damaged.
    """
    document = _read(path)
    if "settings" not in document and "model" in document:
        return document["model"], document["state"]
    state = document.get("state", {})
    if "model" not in state:
        raise TrainingError(f"{path} says nothing of its model: expected a checkpoint of this version; train again")
    keeps_average = json.loads(document["settings"])["optimiser"]["average_decay"]
    return state["model"], state["trainer"]["average" if keeps_average else "model"]


def _read(path: Path) -> Mapping[str, Any]:
    try:
        document: Mapping[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise TrainingError(f"{path} is damaged ({error}): remove it to start afresh") from error
    return document


def _write(path: Path, document: Mapping[str, Any]) -> None:
    """Beside the old file, then swapped."""
    try:
        with replacing(path) as part, part.open("wb") as file:
            torch.save(document, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch reports a short write as RuntimeError
        raise TrainingError(
            f"{path} cannot be written ({error}): expected room for a checkpoint; free some and run the same command, "
            "which goes on from the last good one"
        ) from error
