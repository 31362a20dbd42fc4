"""A file of weights put into a model, with every key that does not fit named."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sightline.errors import ModelDamaged, ModelNotFound

_NESTED = ("state_dict", "model_state_dict", "model", "state", "net", "module")  # where trainers keep the weights
_WRAPPERS = ("module.", "_orig_mod.")  # of data-parallel and compiled models
_SHOWN = 3


def split_state(name: str) -> tuple[str, Path | None]:
    """`ViT-B-32@/path/state.pt` -> the base model and the file of weights, as an absolute path."""
    base, at, path = name.partition("@")
    return base, Path(path).expanduser().resolve() if at else None


def read_state(path: Path) -> dict[str, Any]:
    """The tensors of a checkpoint by name; raises `ModelNotFound` or `ModelDamaged`."""
    if not path.is_file():
        raise ModelNotFound(f"there is no file {path}, expected the weights of a model: check the path after the @")
    try:
        values: Any = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    except Exception as error:  # torch raises of every kind
        first = str(error).strip().partition("\n")[0][:200]
        raise ModelDamaged(
            f"{path} cannot be read as weights ({type(error).__name__}: {first}), expected tensors by name: "
            "save them with torch.save(model.state_dict(), path) or as safetensors"
        ) from error
    while nested := next((key for key in _NESTED if isinstance(values, Mapping) and key in values), None):
        if not isinstance(values[nested], Mapping):
            break
        values = values[nested]
    tensors = values.items() if isinstance(values, Mapping) else ()
    state = {str(name): value for name, value in tensors if isinstance(value, torch.Tensor)}
    if not state:
        raise ModelDamaged(f"{path} holds no tensors by name, expected a state dict: save model.state_dict()")
    for wrapper in _WRAPPERS:
        if all(name.startswith(wrapper) for name in state):
            state = {name.removeprefix(wrapper): value for name, value in state.items()}
    return state


def fit(model: Any, state: Mapping[str, Any], what: str, *, may_lack: bool, unused: Sequence[str] = ()) -> None:
    """Put weights into a model. Raises `ModelDamaged` naming the keys that are missing, unknown or of another shape.

    `may_lack`: the model has weights of its own to keep where `state` has none. Keys that start as one of `unused`
    are for parts that searching does not need.
    """
    own = model.state_dict()
    given = {name: value for name, value in state.items() if not (unused and name.startswith(tuple(unused)))}
    unknown = sorted(set(given) - set(own))
    lacking = [] if may_lack else sorted(name for name in set(own) - set(given) if "num_batches_tracked" not in name)
    shapes = [
        f"{name} {tuple(value.shape)} instead of {tuple(own[name].shape)}"
        for name, value in given.items()
        if name in own and value.shape != own[name].shape
    ]
    reasons = {"it lacks": lacking, "the model does not know": unknown, "of another shape are": shapes}
    if told := "; ".join(f"{reason} {_some(names)}" for reason, names in reasons.items() if names):
        raise ModelDamaged(
            f"the weights of {what} do not fit: {told}; expected the keys of that architecture: "
            "name the model that the weights were trained with"
        )
    model.load_state_dict({**own, **given})


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _pickled(path: Path) -> Any:
    """Tensors and plain values alone: no code in the file is run. Lightning keeps its options in a Namespace."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)
