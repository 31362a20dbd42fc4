"""The libraries that models come from: imported, asked for files, and given files of weights."""

import argparse
import importlib
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from sightline.encoders.hub import Hub, forbids_commercial_use
from sightline.encoders.torch import needed
from sightline.errors import HubUnreachable, ModelDamaged, ModelNotFound, SightlineError, summary

_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
_ANSWER_S = 5.0
_NESTED = ("state_dict", "model_state_dict", "model", "state", "net", "module")  # where trainers keep the weights
_WRAPPERS = ("module.", "_orig_mod.")  # of data-parallel and compiled models
_SHOWN = 3
_HARMLESS_LOGS = (
    "No pretrained weights loaded for model",  # open_clip, of an architecture whose weights we put in, or want random
    "pre-processing before quantization",  # onnxruntime; a graph of ours has nothing left to fold
)
_HARMLESS_WARNINGS: tuple[tuple[type[Warning], str], ...] = (
    (FutureWarning, "Importing from timm.models"),  # an older open_clip with a newer timm
    (UserWarning, "Failed to load image Python extension"),  # torchvision, of files that we do not have it read
)
_log = logging.getLogger(__name__)


def library(name: str) -> Any:
    """The package, imported when it is first needed; raises `ExtraMissing`.

    A torchvision that was built for another torch is imported too: its transforms do without compiled operators.
    """
    needed(name)
    try:
        if find_spec("torchvision") is not None:
            importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for module in [one for one in sys.modules if one.partition(".")[0] == "torchvision"]:
            del sys.modules[module]
        for operator in ("nms", "qnms"):
            _OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")
    with quietly():
        return importlib.import_module(name)


@contextmanager
def quietly() -> Iterator[None]:
    """Without what the libraries are known to say of their own affairs; every other warning is shown."""

    def is_news(record: logging.LogRecord) -> bool:
        return not any(said in record.getMessage() for said in _HARMLESS_LOGS)

    root = logging.getLogger()  # where open_clip logs
    root.addFilter(is_news)
    try:
        with warnings.catch_warnings():
            for category, message in _HARMLESS_WARNINGS:
                warnings.filterwarnings("ignore", message, category)
            yield
    finally:
        root.removeFilter(is_news)


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Quietly; whatever goes wrong inside a library becomes a `ModelDamaged` about the model of that name."""
    try:
        with quietly():
            yield
    except SightlineError:
        raise
    except Exception as error:  # the libraries raise of every kind
        raise ModelDamaged(
            f"{name} cannot be loaded ({type(error).__name__}: {summary(error, 300)}), expected a whole model whose "
            "weights fit its config: check the name, or fetch the files again"
        ) from error


@contextmanager
def files_of(repository: str, files: Sequence[str], hub: Hub) -> Iterator[None]:
    """Lets a library load a repository: from its cache without the network if one of `files` is there.

    Raises `HubUnreachable` when none is and the hub does not answer in seconds; the libraries themselves try for half a
    minute and more. A licence that forbids commercial use is said before anything is fetched.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    is_here = any(isinstance(try_to_load_from_cache(repository, file), str) for file in files)
    if not is_here:
        try:
            answer = replace(hub, answer_s=min(hub.answer_s, _ANSWER_S)).ask(repository)
        except (HubUnreachable, ModelNotFound) as error:
            happened = str(error).partition(": ")[0]
            raise HubUnreachable(
                f"{repository} is not on this disk and {happened}: run `hf download {repository}` where there is a "
                "network, or name a folder or a checkpoint"
            ) from error
        card = answer.get("cardData") if isinstance(answer, dict) else None
        licence = str((card or {}).get("license") or "")
        if forbids_commercial_use(licence):
            _log.warning("the licence of %s, %s, forbids commercial use", repository, licence)
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = is_here or before
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def is_path(name: str) -> bool:
    """Whether the name of a model is written as the path of a folder."""
    return name.startswith((".", "/", "~"))


def split_state(name: str, base: Path = Path()) -> tuple[str, Path | None]:
    """`ViT-B-32@state.pt` -> the model and the file of weights, as an absolute path; it is relative to `base`."""
    model, at, path = name.partition("@")
    return model, (base / Path(path).expanduser()).resolve() if at else None


def read_state(path: Path) -> dict[str, Any]:
    """The tensors of a checkpoint by name; raises `ModelNotFound` or `ModelDamaged`."""
    if not path.is_file():
        raise ModelNotFound(f"there is no file {path}, expected the weights of a model: check the path after the @")
    try:
        if path.suffix == ".safetensors":
            values: Any = importlib.import_module("safetensors.torch").load_file(path)
        else:  # tensors and plain values alone: no code in the file is run; Lightning keeps its options in a Namespace
            with torch.serialization.safe_globals([argparse.Namespace]):
                values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises of every kind
        raise ModelDamaged(
            f"{path} cannot be read as weights ({type(error).__name__}: {summary(error)}), expected tensors by name: "
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
    faults = []
    for reason, names in reasons.items():
        if names:
            more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
            faults.append(f"{reason} {', '.join(names[:_SHOWN])}{more}")
    if faults:
        raise ModelDamaged(
            f"the weights of {what} do not fit: {'; '.join(faults)}; expected the keys of that architecture: "
            "name the model that the weights were trained with"
        )
    model.load_state_dict({**own, **given})
