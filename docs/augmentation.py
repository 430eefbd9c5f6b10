"""Draws docs/augmentation.png: one patch of a phantom under each change of `tl3d_keras.augment`.

    python -m docs.augmentation --output=docs/augmentation.png

takes some 20 seconds on two cores.
"""

import io
from typing import Any

from absl import flags

from data_tools.command import load_tensorflow, run

FLAGS = flags.FlagValues()
_OUTPUT = flags.DEFINE_string("output", None, "PNG file.", required=True, flag_values=FLAGS)

_STRUCTURES = ("liver", "spleen", "left_kidney", "right_kidney", "left_lung", "right_lung")
_SPACING = (3.0, 3.0, 3.0)
_SHAPE = (128, 108, 128)
_SIZE = (88, 72, 112)
_COLUMNS = 4


def main() -> None:
    """Draws."""
    load_tensorflow()
    from matplotlib.figure import Figure
    from PIL import Image

    from tl3d_keras.augmentation import Augmentation, Draw, preset
    from tl3d_keras.figure_file import png

    changes = {
        "as it is": Augmentation(),
        "flip along x: left and right change names": Augmentation((2,)),
        "rotation: 20 degrees about y": Augmentation(rotation=Draw(20, 20), rotation_axes=(1,)),
        "scaling: 1.3": Augmentation(scaling=Draw(1.3, 1.3)),
        "elastic: 12 mm": Augmentation(elastic=Draw(12, 12)),
        "all three in one resampling": Augmentation(
            rotation=Draw(20, 20),
            rotation_axes=(1,),
            scaling=Draw(1.3, 1.3),
            elastic=Draw(12, 12),
        ),
        "noise: 0.2": Augmentation(noise=Draw(0.2, 0.2)),
        "blur: 5 mm": Augmentation(blur=Draw(5, 5)),
        "brightness: +0.4": Augmentation(brightness=Draw(0.4, 0.4)),
        "contrast: 0.5": Augmentation(contrast=Draw(0.5, 0.5)),
        "gamma: 2": Augmentation(gamma=Draw(2, 2)),
        "low resolution: 12 mm": Augmentation(low_resolution=Draw(12, 12)),
        "random contrast: a curve of 12 points": Augmentation(curve=Draw(1, 1)),
    }
    # Seed 2 flips; the last ones are as they are drawn in training, with seeds that draw much.
    panels = [(title, settings, 2) for title, settings in changes.items()]
    for name, seed in (("full", 2), ("any_contrast", 2), ("any_contrast", 5)):
        panels.append((f"--augmentation={name}", preset(name, _SPACING, (2,)), seed))
    case = _phantom()
    rows = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(3.4 * _COLUMNS, 3.0 * rows), layout="constrained")
    for axes, (title, settings, seed) in zip(
        figure.subplots(rows, _COLUMNS).flat, panels, strict=True
    ):
        _draw(axes, title, *_patch(case, settings, seed))
    # A third of the size, for the repository; a palette by frequency would lose the kidneys.
    picture = Image.open(io.BytesIO(png(figure))).convert("RGB")
    picture = picture.quantize(method=Image.Quantize.MAXCOVERAGE)
    picture.save(_OUTPUT.value, optimize=True)


def _phantom() -> Any:
    """A case whose uppermost and lowest slices are unannotated."""
    import numpy as np

    from data_tools.phantoms.anatomy import generate, select
    from tl3d_keras import case_source, records
    from tl3d_keras.annotation import IGNORE
    from tl3d_keras.volumes import Volume

    image, labels = generate(7, _SHAPE, _SPACING)
    labels = select(labels, _STRUCTURES)
    labels[: _SHAPE[0] * 3 // 10] = labels[_SHAPE[0] * 7 // 10 :] = IGNORE
    volume = Volume(image[..., np.newaxis], _SPACING)
    return case_source.opened(records.encode("phantom", volume, labels, [1]))


def _patch(case: Any, settings: Any, number: int) -> tuple[Any, Any]:
    """The middle coronal slice of the patch, between -1 and 1, and of its labels."""
    import tensorflow as tf

    from tl3d_keras import augment, mirrors, spatial
    from tl3d_keras.intensity import Intensity

    seed = tf.constant([0, number], tf.int64)
    start = tf.constant([(n - m) // 2 for n, m in zip(_SHAPE, _SIZE, strict=True)], tf.int64)
    floor = tf.constant([-1000.0])
    image, labels = spatial.cut(case, start, _SIZE, _SIZE, floor, seed, settings, _SPACING)
    image = Intensity("window", (-160.0,), (240.0,)).normalise(image)
    annotated = tf.ones(len(_STRUCTURES) + 1, tf.uint8)
    patch = augment.augment(
        {"image": image, "labels": labels, "annotated": annotated},
        seed,
        settings,
        _SPACING,
        mirrors.mirrored_labels(_STRUCTURES),
    )
    middle = _SIZE[1] // 2
    return patch["image"].numpy()[:, middle, :, 0], patch["labels"].numpy()[:, middle]


def _draw(axes: Any, title: str, image: Any, labels: Any) -> None:
    import numpy as np

    from tl3d_keras.annotation import IGNORE
    from tl3d_keras.slices import palette

    axes.imshow(image, cmap="gray", vmin=-1, vmax=1, origin="lower")
    axes.set_title(title, size=10)
    axes.set_axis_off()
    for value in np.unique(labels[labels > 0]):
        # A border lets contours end at the picture's edge.
        mask = np.pad(labels == value, 1).astype(float)
        y, x = (np.arange(-1, n + 1) for n in labels.shape)
        if value == IGNORE:
            hatched = axes.contourf(x, y, mask, [0.5, 2], colors="none", hatches=["///"])
            hatched.set_edgecolor("#f2c14e")
            hatched.set_linewidth(0)
        else:
            axes.contourf(x, y, mask, [0.5, 2], colors=[palette()[value - 1]], alpha=0.5)
    axes.set_xlim(-0.5, labels.shape[1] - 0.5)
    axes.set_ylim(-0.5, labels.shape[0] - 0.5)


if __name__ == "__main__":
    run(main, FLAGS)
