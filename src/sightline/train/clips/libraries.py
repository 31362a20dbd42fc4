"""The libraries that models come from: whether they are installed, quiet, and have what is asked of them at hand."""

import importlib
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec

import torch

from sightline.encoders.hub import Hub
from sightline.encoders.transfer import fetch_json, reason
from sightline.errors import ExtraMissing, SightlineError, TrainingError

_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")


def needed(*packages: str) -> None:
    """Raises `ExtraMissing` naming the first package that is not installed."""
    for package in packages:
        if find_spec(package) is None:
            raise ExtraMissing(f"this model needs {package!r}, which is not installed: pip install 'sightline[torch]'")


def mend_torchvision() -> None:
    """Lets a torchvision that was built for another torch be imported: its transforms do without compiled operators."""
    if find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            _OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")


@contextmanager
def quietly() -> Iterator[None]:
    """Without the warnings and the log of a library, which speak of its own affairs."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def as_trouble(name: str) -> Iterator[None]:
    """Turns whatever goes wrong inside a library into a `TrainingError` about the model of that name."""
    try:
        yield
    except SightlineError:
        raise
    except Exception as error:  # the libraries raise of every kind
        first = str(error).strip().partition("\n")[0][:300]
        raise TrainingError(
            f"{name} cannot be loaded ({type(error).__name__}: {first}): expected a whole model whose weights fit its "
            "config; check the name, or fetch the files again"
        ) from error


def check_hub(repository: str, files: Sequence[str], hub: Hub | None, what: str) -> None:
    """Raises `TrainingError` when none of `files` is in the libraries' cache and the hub does not answer in seconds.

    The libraries themselves try for half a minute and more, and say so on every line.
    """
    from huggingface_hub import try_to_load_from_cache

    if any(isinstance(try_to_load_from_cache(repository, file), str) for file in files):
        return
    hub = hub or Hub()
    trouble = "offline mode is on" if hub.offline else _trouble(hub, repository)
    if trouble:
        raise TrainingError(
            f"{what} are not on this disk and {trouble}: expected the files of {repository}; fetch them where there "
            f"is a network (hf download {repository}) and copy them here, or name a checkpoint or a folder"
        )


def _trouble(hub: Hub, repository: str) -> str:
    hub = replace(hub, answer_s=min(hub.answer_s, 5.0))
    try:
        fetch_json(f"{hub.endpoint.rstrip('/')}/api/models/{repository}", token=hub.token, answer_s=hub.answer_s)
    except (OSError, ValueError) as error:
        return f"{hub.endpoint} cannot be reached ({reason(error)})"
    return ""
