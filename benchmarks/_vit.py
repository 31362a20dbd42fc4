"""A ViT-B/32-sized model folder with random weights, for timing alone: what it finds means nothing.

python -m benchmarks._vit FOLDER     (needs torch and onnx)
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from torch import nn

from sightline.encoders.catalog import BUNDLED, bundled_folder

WIDTH, LAYERS, HEADS, PATCH, SIDE, DIM = 768, 12, 12, 32, 224, 512


class Visual(nn.Module):
    """ViT-B/32 of CLIP: patches, class token, pre-norm blocks, projection (Radford et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        patches = (SIDE // PATCH) ** 2
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.first = nn.Parameter(torch.randn(1, 1, WIDTH) * 0.02)
        self.places = nn.Parameter(torch.randn(1, patches + 1, WIDTH) * 0.02)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, DIM, bias=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(n, 3, 224, 224) -> (n, 512)."""
        tokens = self.patches(pixels).flatten(2).transpose(1, 2)  # (n, width, 7, 7) -> (n, 49, width)
        first = self.first + torch.zeros_like(tokens[:, :1])  # (n, 1, width), whatever n the graph is run with
        tokens = torch.cat([first, tokens], 1) + self.places  # (n, 50, width)
        found: torch.Tensor = self.head(self.blocks(tokens)[:, 0])
        return found


def main() -> None:
    """The bundled model's text tower stands in for words; only pictures are timed."""
    folder = Path(sys.argv[1])
    shutil.copytree(bundled_folder(BUNDLED), folder, dirs_exist_ok=True)
    visual = Visual().eval()
    for weights in visual.parameters():  # the blocks are copies of one: as equal weights they would be stored once
        nn.init.normal_(weights, std=0.02)
    pixels = torch.zeros(2, 3, SIDE, SIDE)
    axes = {"image": {0: "n"}, "embedding": {0: "n"}}
    torch.backends.mha.set_fastpath_enabled(False)
    torch.onnx.export(
        visual,
        (pixels,),
        str(folder / "visual" / "model.onnx"),
        input_names=["image"],
        output_names=["embedding"],
        dynamic_axes=axes,
        dynamo=False,
    )
    config = json.loads((folder / "config.json").read_text())
    config["embed_dim"], config["vision_cfg"] = DIM, {"image_size": SIDE}
    (folder / "config.json").write_text(json.dumps(config))
    preprocess = json.loads((folder / "visual" / "preprocess_cfg.json").read_text())
    preprocess["size"], preprocess["resize_mode"] = [SIDE, SIDE], "shortest"
    (folder / "visual" / "preprocess_cfg.json").write_text(json.dumps(preprocess))


if __name__ == "__main__":
    main()
