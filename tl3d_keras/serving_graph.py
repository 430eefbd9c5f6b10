"""The signatures of an artifact, in TensorFlow's ops: serving them needs nothing of ours.

`segment` does what `inference.segment` does for a scan whose axes run to superior, posterior, left,
`segment_oblique` for one whose axes do not run along those of the patient: the same samples, the
same network, the same nearest labels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tl3d_keras import graph_checks, tile_cost
from tl3d_keras.geometry import Geometry
from tl3d_keras.graph_tiling import Spans, labels, plan_axis, plan_patches
from tl3d_keras.intensity import Intensity
from tl3d_keras.ordered_logits import ordered_logits
from tl3d_keras.unet3d import UNet3D, named_weights

# What a tile of the `segment` signature may take where the caller sets no size.
_TILE_BYTES = 8 * 2**30


class ServedModel(tf.Module):
    """Holds a network's variables by name and the functions that a SavedModel serves.

    Args:
        network: in float32.
        intensity: the normalisation that it was trained with.
        spacing: (z, y, x) in mm that it was trained at.
        patch_size: (Z, Y, X) of the training patches, the tiles of a network with normalisation.
        tile: most input voxels of a tile along an axis, for a network without normalisation.
    """

    def __init__(
        self,
        network: UNet3D,
        intensity: Intensity,
        spacing: Sequence[float],
        patch_size: Sequence[int],
        tile: int | None = None,
    ) -> None:
        super().__init__()
        self.variables_by_name = named_weights(network)
        computed = _Computed(network, intensity, spacing, patch_size, tile)
        channels = network.get_config()["input_channels"]
        image = tf.TensorSpec([None, None, None, channels], name="image")
        inputs = [image, tf.TensorSpec([3], name="spacing")]
        self.probabilities = _traced(
            computed.probabilities, tf.TensorSpec([None, *image.shape], name="image")
        )
        self._on_grid = computed.on_grid
        self.segment = _traced(computed.segment, *inputs)
        self.segment_oblique = _traced(
            computed.segment_oblique, *inputs, tf.TensorSpec([9], name="direction")
        )

    @property
    def signatures(self) -> dict[str, Callable]:
        """The functions by the names that a SavedModel gives them."""
        return {
            "serving_default": self.probabilities,
            "segment": self.segment,
            "segment_oblique": self.segment_oblique,
        }


class _Computed:
    """What the signatures compute; no `tf.Module`, which would save all that it holds.

    Args:
        network, intensity, spacing, patch_size, tile: see `ServedModel`.
    """

    def __init__(
        self,
        network: UNet3D,
        intensity: Intensity,
        spacing: Sequence[float],
        patch_size: Sequence[int],
        tile: int | None,
    ) -> None:
        config = network.get_config()
        channels = self._channels = config["input_channels"]
        self._network, self._intensity = network, intensity
        self._spacing = [float(s) for s in spacing]
        self._plan: Callable[[tf.Tensor, Geometry, int], Spans] = plan_axis
        self._sizes: Sequence[int] = [tile or default_tile(network)] * 3
        if config["normalization"]:
            self._plan, self._sizes = plan_patches, patch_size
        # One copy of the network for both signatures.
        self.on_grid = _traced(
            self._labels,
            tf.TensorSpec([None, None, None, channels], name="image"),
            tf.TensorSpec([channels]),
            tf.TensorSpec([channels]),
        )

    def probabilities(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """Of patches [N, Z, Y, X, C]."""
        image = self._intensity.normalise(graph_checks.fitting(image, self._network.geometry))
        return {"probabilities": self._network(image, training=False)}

    def segment(self, image: tf.Tensor, spacing: tf.Tensor) -> dict[str, tf.Tensor]:
        """Of a scan whose axes run to superior, posterior, left."""
        image, grid = graph_checks.checked(image, spacing, self._channels, self._spacing)
        seen = grid.resample(image)
        return {"labels": grid.labels_back(self._segmented(seen, seen))}

    def segment_oblique(
        self, image: tf.Tensor, spacing: tf.Tensor, direction: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Of a scan with any axes."""
        image, grid = graph_checks.checked(image, spacing, self._channels, self._spacing, direction)
        # The corners around it are no part of the scan.
        return {"labels": grid.labels_back(self._segmented(grid.resample(image), image))}

    def _segmented(self, image: tf.Tensor, scanned: tf.Tensor) -> tf.Tensor:
        coefficients = self._intensity.coefficients(scanned)
        return self.on_grid(image, *(tf.reshape(v, [self._channels]) for v in coefficients))

    def _labels(self, image: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
        axes = [
            self._plan(size, self._network.geometry, most)
            for size, most in zip(tf.unstack(tf.shape(image)[:3]), self._sizes, strict=True)
        ]
        return labels(image, axes, scale, shift, self._intensity, ordered_logits(self._network))


def _traced(function: Callable, *inputs: tf.TensorSpec) -> Any:
    return tf.function(function, input_signature=inputs, autograph=False)


def default_tile(network: UNet3D) -> int:
    """Input voxels along an axis of the largest cube that should not take more than 8 GiB."""
    geometry, costs = network.geometry, tile_cost.Network.of(network.get_config(), "float32")
    size = geometry.input_size(geometry.stride)
    while True:
        larger = size + geometry.stride
        cost = tile_cost.of_tile(costs, (larger, larger, larger))
        if cost.bytes > _TILE_BYTES or cost.numbers > tile_cost.MOST_NUMBERS:
            return size
        size = larger
