"""The word for a device in the settings -> the device that a run computes on."""

import torch
from torch import nn

from sightline.errors import TrainingError
from sightline.train.config import Device


def choose_device(wanted: Device) -> torch.device:
    """CUDA for `auto` where there is one. Raises `TrainingError` when it was asked for and is not there."""
    has_cuda = torch.cuda.is_available()
    if wanted == "cuda" and not has_cuda:
        built = f"torch {torch.__version__}, built for CUDA {torch.version.cuda or 'not at all'}"
        raise TrainingError(
            f"device is 'cuda' and torch finds no CUDA device ({built}): expected a GPU with its driver; "
            'set device = "auto" to use what is there, or install a torch that was built for your CUDA'
        )
    return torch.device("cuda" if has_cuda and wanted != "cpu" else "cpu")


def device_of(module: nn.Module) -> torch.device:
    """Where the weights of a module are."""
    return next(module.parameters()).device
