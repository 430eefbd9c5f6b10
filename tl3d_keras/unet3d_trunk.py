"""The layers of the 3D U-Net below its head."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tl3d_keras.convolutions import BiasedConv3D, JoinedConv3D
from tl3d_keras.instance_normalization import InstanceNormalization

MAX_GROUPS = 8


class TrunkBuilder:
    """Makes the layers of the trunk; holds what they share.

    Args:
        filters: of the first convolution.
        levels: resolutions.
        padding: of the convolutions.
        normalization: before each activation.
        dtype: of the layers.
    """

    def __init__(
        self, filters: int, levels: int, padding: str, normalization: str | None, dtype: Any
    ) -> None:
        self._filters = filters
        self._levels = levels
        self._padding = padding
        self._normalization = normalization
        self._dtype = dtype

    def trunk(self, x: Any) -> list[Any]:
        """The features of the coarsest level and of each decoder level above it."""
        skips = []
        for level in range(self._levels):
            first = self._filters * 2**level
            x = self._block(x, "encoder", level, (first, 2 * first))
            if level < self._levels - 1:
                skips.append(x)
                # Processors have no float16 kernel, and a maximum is exact in any precision.
                dtype = "float32" if self._dtype == "mixed_float16" else self._dtype
                x = tf.keras.layers.MaxPooling3D(2, dtype=dtype, name=f"encoder_{level}_pool")(x)
        features = [x]
        for level in reversed(range(self._levels - 1)):
            width = self._filters * 2 ** (level + 1)
            x = self._block(
                [x, self._cropped(skips[level], level)], "decoder", level, (width, width)
            )
            features.append(x)
        return features

    def _cropped(self, skip: Any, level: int) -> Any:
        if self._padding == "same":
            return skip
        # Two convolutions on the way down and two up at each coarser level, in its voxels.
        crop = 6 * 2 ** (self._levels - 1 - level) - 8
        return tf.keras.layers.Cropping3D(crop, dtype=self._dtype, name=f"decoder_{level}_crop")(
            skip
        )

    def _block(self, x: Any, part: str, level: int, widths: Sequence[int]) -> Any:
        layers = tf.keras.layers
        for i, width in enumerate(widths):
            plain = self._normalization is None
            arguments = {
                "padding": self._padding,
                "dtype": self._dtype,
                "name": f"{part}_{level}_conv_{i}",
                "activation": "relu" if plain else None,
            }
            joins = isinstance(x, list)
            x = (
                JoinedConv3D(width, **arguments)(x)
                if joins
                else BiasedConv3D(width, 3, **arguments)(x)
            )
            if not plain:
                x = self._normalized(x, f"{part}_{level}_norm_{i}", width)
                x = layers.ReLU(dtype=self._dtype, name=f"{part}_{level}_relu_{i}")(x)
        return x

    def _normalized(self, x: Any, name: str, width: int) -> Any:
        if self._normalization == "instance":
            return InstanceNormalization(dtype=self._dtype, name=name)(x)
        groups = min(MAX_GROUPS, width)
        return tf.keras.layers.GroupNormalization(groups, dtype=self._dtype, name=name)(x)


def block_layers(layers: Mapping[str, Any], part: str, level: int) -> list[Any]:
    """The layers of a block in their order.

    Args:
        layers: those of the network by name.
        part: "encoder" or "decoder".
        level: of the block, 0 for the finest.
    """
    names = (f"{part}_{level}_{kind}_{i}" for i in range(2) for kind in ("conv", "norm", "relu"))
    return [layers[name] for name in names if name in layers]


def through(layers: Sequence[Any], x: Any) -> Any:
    """What layers make of `x`, one after the other."""
    for layer in layers:
        x = layer(x)
    return x
