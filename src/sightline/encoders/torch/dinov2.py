"""`dinov2:base` -> the class token of DINOv2 (Oquab et al. 2023, arXiv:2304.07193), by way of transformers."""

from collections.abc import Mapping
from difflib import get_close_matches

from sightline.encoders.hub import Hub
from sightline.encoders.torch import transformers
from sightline.encoders.torch.encoder import Towers
from sightline.errors import ModelNotFound

_REPOSITORIES: Mapping[str, str] = {
    size: f"facebook/dinov2-{size}"
    for size in ("small", "base", "large", "giant")
    for size in (size, f"with-registers-{size}")
}
_PAPER = {"vits14": "small", "vitb14": "base", "vitl14": "large", "vitg14": "giant"}


def load(rest: str, hub: Hub) -> Towers:
    """`small` (or `vits14`) to `giant`, each also `with-registers-`, or `./folder`. Raises an `EncoderError`."""
    if rest.startswith((".", "/", "~")):
        return transformers.load(rest, hub)
    rest = _PAPER.get(rest, rest)
    if rest not in _REPOSITORIES:
        near = get_close_matches(rest, _REPOSITORIES, n=2, cutoff=0.4)
        raise ModelNotFound(
            f"there is no DINOv2 {rest!r}, expected one of {', '.join(_REPOSITORIES)}, or ./folder: "
            f"did you mean dinov2:{near[0] if near else 'base'}?"
        )
    return transformers.load(_REPOSITORIES[rest], hub)
