"""Writes a trained model for TF Serving, or as an ONNX or TFLite file.

    python -m experiments.export --model=RUN/model --output_dir=/models/liver

writes /models/liver/<version>/, one above the highest version there, with warm-up requests for TF
Serving where the extra `serving` is installed. Before it appears, TensorFlow alone loads it and
gives the probabilities that Keras gives and the labels that experiments.segment gives.
--format=onnx (extra `onnx`) and --format=tflite write <version>/model.onnx or model.tflite, checked
likewise; --format=published_h5 writes unet3d.h5, which the code of the authors of arXiv 2311.05032
loads.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from data_tools.command import load_tensorflow, run
from tl3d_keras.errors import InputError

if TYPE_CHECKING:
    from tl3d_keras.artifact import Artifact, ModelInfo

FLAGS = flags.FlagValues()
_MODEL = flags.DEFINE_string("model", None, "Model folder.", required=True, flag_values=FLAGS)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir",
    None,
    "The served model's folder; gets a new version.",
    required=True,
    flag_values=FLAGS,
)
_FORMAT = flags.DEFINE_enum(
    "format",
    "saved_model",
    ["saved_model", "onnx", "tflite", "published_h5"],
    "What to write; published_h5 is the layout of the authors of arXiv 2311.05032.",
    flag_values=FLAGS,
)


def main() -> None:
    """Reads the flags and exports."""
    load_tensorflow()
    from tl3d_keras import artifact, model_file, published

    model = artifact.load(_MODEL.value)
    if _FORMAT.value == "published_h5":
        file = Path(_OUTPUT_DIR.value) / "unet3d.h5"
        published.save(model.network, model.info.intensity, file)
        print(f"{file}: {file.stat().st_size / 2**20:.1f} MiB")
        return
    target, largest = (
        _save(model)
        if _FORMAT.value == "saved_model"
        else model_file.write(model, _OUTPUT_DIR.value, _FORMAT.value)
    )
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    checked = f"largest difference of a probability {largest:.1e}"
    print(f"{target}: {size / 2**20:.1f} MiB, {checked}")


def _save(model: "Artifact") -> tuple[Path, float]:
    from tl3d_keras import artifact, served_check

    differences = []

    def check(version: Path) -> None:
        _add_warm_up(version, Path(_OUTPUT_DIR.value).name, model.info)
        differences.append(served_check.check(version))

    target = artifact.save(model.network, model.info, _OUTPUT_DIR.value, extend=check)
    return target, differences[0]


def _add_warm_up(version: Path, name: str, info: "ModelInfo") -> None:
    try:
        from tl3d_keras.serving import warmup
    except InputError as error:
        print(f"no warm-up requests, the first scan will take longer: {error}", file=sys.stderr)
    else:
        warmup.write(version, name, info)


def cli() -> None:
    """The console script."""
    run(main, FLAGS)


if __name__ == "__main__":
    cli()
