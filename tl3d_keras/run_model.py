"""The model that a training run saves."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tensorflow as tf

from tl3d_keras import __version__, artifact, run_parts, run_report, scan_check, volume_ranges
from tl3d_keras.artifact import ModelInfo
from tl3d_keras.input_pipeline import PatchSettings
from tl3d_keras.manifest import CaseEntry, Manifest
from tl3d_keras.run_settings import RunSettings
from tl3d_keras.unet3d import UNet3D


def save(
    network: UNet3D,
    settings: RunSettings,
    manifest: Manifest,
    train_cases: Sequence[CaseEntry],
    patches: PatchSettings,
    folder: Path,
    metrics: dict[str, float],
) -> Path:
    """Saves the artifact of a run into `folder`, in place of what is there.

    Args:
        network: as it was trained.
        settings: of the run.
        manifest: of its records.
        train_cases: that it was trained on.
        patches: that it was trained on.
        folder: gets the version's folder.
        metrics: of the model.

    Returns:
        The version's folder.
    """
    info = ModelInfo(
        tuple(manifest.structures),
        tuple(manifest.channels),
        run_parts.triple(manifest.spacing),
        patches.intensity,
        patches.image_size,
        _provenance(settings, manifest, train_cases),
        metrics,
    )
    # A run that was killed between saving and saying so has its model already.
    shutil.rmtree(folder, ignore_errors=True)
    return artifact.save(network, info, folder)


def _provenance(
    settings: RunSettings, manifest: Manifest, train_cases: Sequence[CaseEntry]
) -> dict[str, Any]:
    voxels = sum(case.shape[0] * case.shape[1] * case.shape[2] for case in train_cases)
    annotated = sum(case.coverage["annotated"]["voxels"] for case in train_cases)
    return {
        "data": manifest.fingerprint,
        "training_cases": len(train_cases),
        "annotated_fraction": round(annotated / voxels, 4),
        volume_ranges.PROVENANCE_KEY: volume_ranges.measure(
            manifest.structures, train_cases, manifest.spacing
        ),
        scan_check.LOWEST_KEY: scan_check.lowest_intensities(train_cases),
        "settings": asdict(settings),
        "tl3d_keras": __version__,
        "tensorflow": tf.__version__,
        "command": run_report.command_line(sys.argv),
    }
