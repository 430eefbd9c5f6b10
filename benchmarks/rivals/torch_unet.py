"""The U-Net of Çiçek et al. in PyTorch, for the rivals that run in its environments."""

import torch
from torch import nn
from torch.nn import functional


class UNet(nn.Module):
    """Logits, as such a network is usually written; `padding` 1 keeps the size, 0 is valid."""

    def __init__(self, filters: int, levels: int, classes: int, padding: int) -> None:
        super().__init__()
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        channels = 1
        for level in range(levels):
            first = filters * 2**level
            self.down.append(_block(channels, first, 2 * first, padding))
            channels = 2 * first
        for level in reversed(range(levels - 1)):
            width = filters * 2 ** (level + 1)
            self.up.append(_block(channels + width, width, width, padding))
            channels = width
        self.head = nn.Conv3d(channels, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for level, block in enumerate(self.down):
            x = block(functional.max_pool3d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for block in self.up:
            x = functional.interpolate(x, scale_factor=2)
            skip = skips.pop()
            if crop := (skip.shape[-1] - x.shape[-1]) // 2:
                skip = skip[:, :, crop:-crop, crop:-crop, crop:-crop]
            x = block(torch.cat([x, skip], 1))
        return self.head(x).float()


def _block(channels: int, first: int, second: int, padding: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels, first, 3, padding=padding),
        nn.ReLU(True),
        nn.Conv3d(first, second, 3, padding=padding),
        nn.ReLU(True),
    )
