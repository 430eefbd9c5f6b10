"""Shows what a folder of shards holds: its cases, how much of each is annotated, and a picture.

    python -m data_tools.inspect --records_dir=RECORDS
    python -m data_tools.inspect --records_dir=RECORDS --verify
    python -m data_tools.inspect --records_dir=RECORDS --html=PAGE.html
    python -m data_tools.inspect --records_dir=RECORDS --case=NAME --png=CASE.png

The first answers at once from the manifest. `--verify` reads every shard (a gigabyte takes a few
seconds) and names all that are damaged. `--html` writes one page that needs no network: every case
as a small picture with what is annotated of each structure, the worst first. `--png` draws a case
with its unannotated voxels hatched in about five seconds.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from data_tools import tables
from data_tools.command import load_tensorflow, run
from tl3d_keras import manifest
from tl3d_keras.errors import InputError
from tl3d_keras.manifest import CaseEntry, Manifest
from tl3d_keras.whole_folder import check_writable, write_file

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
_HTML = flags.DEFINE_string(
    "html", None, "Write a page of the cases to this file.", flag_values=FLAGS
)
_PNG = flags.DEFINE_string("png", None, "Draw --case to this file.", flag_values=FLAGS)


def main() -> None:
    """Reads the flags, prints the tables, checks and draws."""
    folder = Path(_RECORDS_DIR.value)
    if _PNG.value and not _CASE.value:
        raise InputError(
            f"--png: expected --case, the name of the case to draw to {_PNG.value}, found none"
        )
    for flag in (_PNG, _HTML):
        if flag.value and Path(flag.value).suffix.lower() != f".{flag.name}":
            raise InputError(
                f"--{flag.name}: expected a file name that ends in .{flag.name}, found {flag.value}"
            )
        if flag.value:
            check_writable(flag.value)
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
    notes = cases[0].warnings if _CASE.value else tables.notes(content)
    if notes:
        lines += ["", *notes]
    print("\n".join(lines), flush=True)
    if _VERIFY.value:
        manifest.verify(content, folder)
        print(f"{len(content.shards)} shards verified")
    if _HTML.value:
        write_page(folder, content, cases, Path(_HTML.value))
        print(f"{len(cases)} cases on a page: {_HTML.value}")
    if _PNG.value:
        draw(folder, content, cases[0], Path(_PNG.value))
        print(f"{cases[0].case_id}: {_PNG.value}")


def write_page(
    folder: Path,
    content: Manifest,
    cases: Sequence[CaseEntry],
    path: Path,
) -> None:
    """Writes the page of `records_page.build`.

    Raises:
        InputError: `path` cannot be written.
    """
    load_tensorflow()
    import tensorflow as tf

    from data_tools import records_page
    from tl3d_keras import slices, stored_case, thumbnails

    progress = tf.keras.utils.Progbar(len(cases), unit_name="case")

    def pictures() -> Iterator[bytes]:
        window = slices.window_of(content.channels[0])
        for case in cases:
            stored = stored_case.read(folder, content, case)
            image, labels = stored.image, stored.labels
            yield thumbnails.jpeg(image.array[..., 0], labels, image.spacing, window)
            if sys.stdout.isatty():
                progress.add(1)

    title = f"Records: {folder.resolve().name}"
    page = records_page.build(title, content, cases, pictures())
    write_file(path, page.encode())


def draw(folder: Path, content: Manifest, case: CaseEntry, path: Path) -> None:
    """Writes the overlay of a case's first channel as a PNG file.

    Raises:
        InputError: `path` is no PNG file, or cannot be written.
    """
    load_tensorflow()
    from tl3d_keras import figure_file, overlays, slices, stored_case

    stored = stored_case.read(folder, content, case)
    image, labels = stored.image, stored.labels
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
