"""Copies a trained model to where TF Serving looks for it.

    python -m experiments.export --model=RUN/model --output_dir=/models/liver

writes /models/liver/<version>/, one above the highest version there, and checks that TensorFlow
alone loads it and gives the probabilities that Keras gives. `--format=published_h5` writes
unet3d.h5, which the code of the authors of arXiv 2311.05032 loads.
"""

from pathlib import Path

from absl import flags

from data_tools.command import load_tensorflow, run

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
    ["saved_model", "published_h5"],
    "saved_model, or the .h5 layout of the authors of arXiv 2311.05032.",
    flag_values=FLAGS,
)


def main() -> None:
    """Reads the flags and exports."""
    load_tensorflow()
    from tl3d_keras import artifact, published

    model = artifact.load(_MODEL.value)
    if _FORMAT.value == "published_h5":
        file = Path(_OUTPUT_DIR.value) / "unet3d.h5"
        published.save(model.network, model.info.intensity, file)
        print(f"{file}: {file.stat().st_size / 2**20:.1f} MiB")
        return
    target = artifact.save(model.network, model.info, _OUTPUT_DIR.value)
    largest = artifact.check_served(target)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    print(f"{target}: {size / 2**20:.1f} MiB, largest difference of a probability {largest:.1e}")


def cli() -> None:
    """The console script."""
    run(main, FLAGS)


if __name__ == "__main__":
    cli()
