"""The libraries that models come from: importable, quiet, and asked for files only where there are any to be had."""

import importlib
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch

from sightline.encoders.hub import Hub
from sightline.encoders.torch import needed
from sightline.errors import HubUnreachable, ModelDamaged, ModelNotFound, SightlineError

_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
_ANSWER_S = 5.0
_FORBIDS = re.compile(r"(^|-)nc(-|$)|non-?commercial|research|amlr", re.IGNORECASE)  # cc-by-nc-4.0, apple-amlr
_log = logging.getLogger(__name__)


def library(name: str) -> Any:
    """The package, imported when it is first needed; raises `ExtraMissing`."""
    needed(name)
    _mend_torchvision()
    with quietly():
        return importlib.import_module(name)


def _mend_torchvision() -> None:
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
def loading(name: str) -> Iterator[None]:
    """Quietly; whatever goes wrong inside a library becomes a `ModelDamaged` about the model of that name."""
    try:
        with quietly():
            yield
    except SightlineError:
        raise
    except Exception as error:  # the libraries raise of every kind
        first = str(error).strip().partition("\n")[0][:300]
        raise ModelDamaged(
            f"{name} cannot be loaded ({type(error).__name__}: {first}), expected a whole model whose weights fit its "
            "config: check the name, or fetch the files again"
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
        _ask(repository, hub)
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = is_here or before
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _ask(repository: str, hub: Hub) -> None:
    """See that the hub has it, and who may use it."""
    try:
        answer = replace(hub, answer_s=min(hub.answer_s, _ANSWER_S)).ask(repository)
    except (HubUnreachable, ModelNotFound) as error:
        happened = str(error).partition(": ")[0]
        raise HubUnreachable(
            f"the files of {repository} are not on this disk and {happened}: run `hf download {repository}` where "
            "there is a network, or name a folder or a checkpoint"
        ) from error
    card = answer.get("cardData") if isinstance(answer, dict) else None
    licence = str((card or {}).get("license") or "")
    if _FORBIDS.search(licence):
        _log.warning("the licence of %s, %s, forbids commercial use", repository, licence)
