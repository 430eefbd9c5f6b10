"""The parts of a training run, made from its settings, its records and its base."""

from collections.abc import Sequence
from typing import Any

from tl3d_keras import (
    augmentation,
    class_weights,
    input_pipeline,
    losses,
    paper,
    transfer,
    weight_surgery,
)
from tl3d_keras.artifact import ModelInfo
from tl3d_keras.base_file import Base
from tl3d_keras.geometry import Geometry
from tl3d_keras.intensity import Intensity
from tl3d_keras.manifest import CaseEntry, Manifest
from tl3d_keras.run_settings import RunSettings
from tl3d_keras.unet3d import UNet3D


def make_loss(
    settings: RunSettings, manifest: Manifest, train_cases: Sequence[CaseEntry]
) -> losses.MaskedLoss:
    """The loss, with class weights from the training cases where they are asked for."""
    weights = None
    if settings.class_weights == "balanced":
        weights = class_weights.balanced(manifest.structures, train_cases)
    return losses.make(settings.loss, True, settings.loss_options, weights)


def make_network(
    settings: RunSettings, manifest: Manifest, base: Base | None, precision: str
) -> tuple[UNet3D, dict[str, str]]:
    """The network of a mode, and where each layer's weights come from."""
    classes, channels = len(manifest.structures) + 1, len(manifest.channels)
    if base and settings.mode != "scratch":
        return transfer.transfer_model(
            base.network,
            manifest.structures,
            channels,
            settings.head,
            precision,
            settings.input_channels_by,
            (base.info.channels, manifest.channels) if base.info else None,
            settings.architecture,
        )
    config = (
        base.network.get_config()
        if base
        else {k: getattr(settings, k) for k in transfer.ARCHITECTURE}
    )
    network = UNet3D(
        **config
        | dict(settings.architecture)
        | {
            "num_classes": classes,
            "input_channels": channels,
            "structures": manifest.structures,
            "dtype": precision,
        }
    )
    return network, {}


def choose_intensity(settings: RunSettings, manifest: Manifest, base: Base | None) -> Intensity:
    """The normalisation: by the flags, the base or the records' proposal."""
    channels = len(manifest.channels)
    if settings.window:
        low, high = settings.window
        return Intensity("window", (low,) * channels, (high,) * channels)
    window = manifest.proposal.window
    proposed = Intensity("zscore")
    if window:
        proposed = Intensity("window", *(tuple(end) for end in zip(*window, strict=True)))
    # Weights that saw one scale of a modality with units go on in that scale.
    if base and base.info and proposed.mode == base.info.intensity.mode == "window":
        return _continued(proposed, manifest.channels, base.info)
    return proposed


def _continued(proposed: Intensity, channels: Sequence[str], info: ModelInfo) -> Intensity:
    """The base's window in the channels that go on with one of the base's."""
    sources = weight_surgery.channel_sources(info.channels, channels)
    if len(channels) != len(info.channels):
        # By name alone, for any other channel starts with a mixture of kernels.
        sources = [
            s if s is not None and info.channels[s] == name else None
            for s, name in zip(sources, channels, strict=True)
        ]
    ends = zip(proposed.low, proposed.high, sources, strict=True)
    window = [
        (low, high) if s is None else (info.intensity.low[s], info.intensity.high[s])
        for low, high, s in ends
    ]
    return Intensity("window", *(tuple(end) for end in zip(*window, strict=True)))


def patch_settings(
    settings: RunSettings,
    manifest: Manifest,
    network: UNet3D,
    base: Base | None,
    normalisation: Intensity,
) -> input_pipeline.PatchSettings:
    """What the batches of the run look like."""
    size = settings.patch_size or (
        base.info.patch_size
        if base and base.info and _fits(network.geometry, base.info.patch_size)
        else _default_patch_size(network.geometry, manifest)
    )
    z, y, x = (network.geometry.output_size(n) for n in size)
    return input_pipeline.PatchSettings(
        triple(size),
        (z, y, x),
        settings.batch_size,
        normalisation,
        augmentation.preset(settings.augmentation, manifest.spacing, settings.flip_axes),
        settings.seed,
    )


def _fits(geometry: Geometry, size: Sequence[int]) -> bool:
    """Whether a network, which may not have the base's depth, takes patches of the base's size."""
    return all(geometry.is_input_size(n) for n in size)


def _default_patch_size(geometry: Geometry, manifest: Manifest) -> tuple[int, int, int]:
    if geometry.padding == "valid":
        return paper.PATCH_SIZE
    stride = geometry.stride
    return triple([-(-n // stride) * stride for n in manifest.proposal.patch_size])


def triple(values: Sequence[Any]) -> tuple[Any, Any, Any]:
    """Three values of a sequence, as a tuple of three."""
    a, b, c = values
    return a, b, c
