"""Segments by MONAI's sliding window; run by benchmarks.segment in its own Python."""

import json
import sys
import time

import torch
from monai.inferers import sliding_window_inference
from torch import nn
from torch.nn import functional


class UNet(nn.Module):
    """That of Çiçek et al. with same padding, which sliding windows need."""

    def __init__(self, filters: int, levels: int, classes: int) -> None:
        super().__init__()
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        channels = 1
        for level in range(levels):
            first = filters * 2**level
            self.down.append(_block(channels, first, 2 * first))
            channels = 2 * first
        for level in reversed(range(levels - 1)):
            width = filters * 2 ** (level + 1)
            self.up.append(_block(channels + width, width, width))
            channels = width
        self.head = nn.Conv3d(channels, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for level, block in enumerate(self.down):
            x = block(functional.max_pool3d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for block in self.up:
            x = block(torch.cat([functional.interpolate(x, scale_factor=2), skips.pop()], 1))
        return self.head(x).float().softmax(1)


def _block(channels: int, first: int, second: int) -> nn.Sequential:
    convolve = nn.Conv3d(channels, first, 3, padding=1), nn.Conv3d(first, second, 3, padding=1)
    return nn.Sequential(convolve[0], nn.ReLU(True), convolve[1], nn.ReLU(True))


def main(config: dict) -> dict:
    network = UNet(config["filters"], 4, config["classes"]).eval()
    # As they are used; channels last is faster here.
    network = network.to(memory_format=torch.channels_last_3d)
    half = config["precision"] == "mixed_bfloat16"
    image = torch.randn(1, 1, *config["shape"])

    def run(image: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            return sliding_window_inference(image, (96, 96, 96), 1, network, overlap=0.25).argmax(1)

    run(torch.randn(1, 1, 96, 96, 96))
    seconds = []
    for _ in range(config["repeats"]):
        start = time.perf_counter()
        run(image)
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds)}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
