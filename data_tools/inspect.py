"""Shows what a folder of shards holds: its cases, how much of each is annotated, and a picture.

    python -m data_tools.inspect --records_dir=RECORDS
    python -m data_tools.inspect --records_dir=RECORDS --verify
    python -m data_tools.inspect --records_dir=RECORDS --case=NAME --png=CASE.png

The first answers at once from the manifest, `--verify` reads every shard (a gigabyte takes a few
seconds), the third draws the case with its unannotated voxels hatched in about five seconds.
"""

from pathlib import Path

from absl import flags

from data_tools import tables
from data_tools.command import load_tensorflow, run
from tl3d_keras import manifest
from tl3d_keras.errors import InputError
from tl3d_keras.manifest import CaseEntry, Manifest

FLAGS = flags.FlagValues()
_RECORDS_DIR = flags.DEFINE_string(
    "records_dir",
    None,
    "Folder that data_tools.shard has written.",
    required=True,
    flag_values=FLAGS,
)
_VERIFY = flags.DEFINE_bool(
    "verify", False, "Read every shard and compare its CRC32C.", flag_values=FLAGS
)
_CASE = flags.DEFINE_string("case", None, "Show this case alone.", flag_values=FLAGS)
_PNG = flags.DEFINE_string("png", None, "Draw --case to this file.", flag_values=FLAGS)


def main() -> None:
    """Reads the flags, prints the tables, checks and draws."""
    folder = Path(_RECORDS_DIR.value)
    if _PNG.value and not _CASE.value:
        raise InputError(
            f"--png: expected --case, the name of the case to draw to {_PNG.value}, found none"
        )
    if _PNG.value and Path(_PNG.value).suffix.lower() != ".png":
        raise InputError(f"--png: expected a file name that ends in .png, found {_PNG.value}")
    # Damage is for verify to name, all of it.
    content = manifest.load(folder, check_shards=not _VERIFY.value)
    cases = content.select([_CASE.value]) if _CASE.value else content.cases
    lines = [
        *tables.summary(content),
        "",
        *tables.case_table(content, cases),
        "",
        *tables.structure_table(content, cases),
    ]
    print("\n".join(lines), flush=True)
    if _VERIFY.value:
        manifest.verify(content, folder)
        print(f"{len(content.shards)} shards verified")
    if _PNG.value:
        draw(folder, content, cases[0], Path(_PNG.value))
        print(f"{cases[0].case_id}: {_PNG.value}")


def draw(folder: Path, content: Manifest, case: CaseEntry, path: Path) -> None:
    """Writes the overlay of a case's first channel as a PNG file.

    Raises:
        InputError: `path` is no PNG file, or cannot be written.
    """
    load_tensorflow()
    from tl3d_keras import figure_file, input_pipeline, overlays, records, slices

    parsed = next(iter(input_pipeline.read_cases(folder, content, [case])))
    image, labels = records.to_volumes(parsed)
    channel = content.channels[0]
    figure = overlays.overlay(
        image.array[..., 0],
        labels,
        image.spacing,
        content.structures,
        f"{case.case_id} ({channel})",
        slices.window_of(channel),
    )
    figure_file.save_png(figure, path)


def cli() -> None:
    """The console script."""
    run(main, FLAGS)


if __name__ == "__main__":
    cli()
