"""Shows what a folder of shards holds: its cases, how much of each is annotated, and a picture.

    python -m data_tools.inspect --records_dir=RECORDS
    python -m data_tools.inspect --records_dir=RECORDS --verify
    python -m data_tools.inspect --records_dir=RECORDS --case=NAME --png=CASE.png

The first answers at once from the manifest, `--verify` reads every shard (a gigabyte takes a few
seconds), the third draws the case with its unannotated voxels hatched in about five seconds.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

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

# More names than these make a line nobody reads.
_MAX_NAMES = 4


def main() -> None:
    """Reads the flags, prints the tables, checks and draws."""
    folder = Path(_RECORDS_DIR.value)
    if _PNG.value and not _CASE.value:
        raise InputError(
            f"--png: expected --case, the name of the case to draw to {_PNG.value}, found none"
        )
    if _PNG.value and Path(_PNG.value).suffix.lower() != ".png":
        raise InputError(f"--png: expected a file name that ends in .png, found {_PNG.value}")
    content = manifest.load(folder)
    cases = content.select([_CASE.value]) if _CASE.value else content.cases
    lines = [
        *summary(content),
        "",
        *case_table(content, cases),
        "",
        *structure_table(content, cases),
    ]
    print("\n".join(lines), flush=True)
    if _VERIFY.value:
        manifest.verify(content, folder)
        print(f"{len(content.shards)} shards verified")
    if _PNG.value:
        draw(folder, content, cases[0], Path(_PNG.value))
        print(f"{cases[0].case_id}: {_PNG.value}")


def summary(content: Manifest) -> list[str]:
    """What holds for the whole set, as lines of text."""
    size = sum(shard.bytes for shard in content.shards) / 2**20
    spacing = ", ".join(f"{s:g}" for s in content.spacing)
    return [
        f"{len(content.cases)} cases, {len(content.structures)} structures",
        f"channels: {', '.join(content.channels)}; spacing {spacing} mm (z, y, x)",
        f"{len(content.shards)} shards, {size:.1f} MiB, fingerprint {content.fingerprint}, "
        f"written by tl3d-keras {content.tool_version}",
    ]


def case_table(content: Manifest, cases: Sequence[CaseEntry]) -> list[str]:
    """One line a case: shape, annotated slices and share of voxels, structures annotated."""
    rows = [("case", "shape z,y,x", "annotated slices", "voxels", "structures annotated")]
    for case in cases:
        counts = case.coverage["annotated"]
        share = counts["voxels"] / int(np.prod(case.shape[:3]))
        rows.append(
            (
                case.case_id,
                " x ".join(str(n) for n in case.shape[:3]),
                f"{counts['slices']} of {case.shape[0]}",
                f"{share:.1%}",
                _names(content, case),
            )
        )
    return _aligned(rows, left=(0, 4))


def structure_table(content: Manifest, cases: Sequence[CaseEntry]) -> list[str]:
    """One line a structure: in how many of `cases`, in how many axial slices and voxels it is."""
    rows = [("structure", "cases annotated", "cases present", "slices", "voxels")]
    for name in content.structures:
        counts = [case.coverage[name] for case in cases if name in case.annotated_structures]
        rows.append(
            (
                name,
                str(len(counts)),
                str(sum(c["voxels"] > 0 for c in counts)),
                str(sum(c["slices"] for c in counts)),
                str(sum(c["voxels"] for c in counts)),
            )
        )
    return _aligned(rows, left=(0,))


def draw(folder: Path, content: Manifest, case: CaseEntry, path: Path) -> None:
    """Writes the overlay of a case's first channel as a PNG file.

    Raises:
        InputError: `path` is no PNG file, or cannot be written.
    """
    load_tensorflow()
    from tl3d_keras import input_pipeline, pictures, records

    parsed = next(iter(input_pipeline.read_cases(folder, content, [case])))
    image, labels = records.to_volumes(parsed)
    channel = content.channels[0]
    figure = pictures.overlay(
        image.array[..., 0],
        labels,
        image.spacing,
        content.structures,
        f"{case.case_id} ({channel})",
        pictures.window_of(channel),
    )
    pictures.save_png(figure, path)


def _names(content: Manifest, case: CaseEntry) -> str:
    names = case.annotated_structures
    if content.is_fully_labelled(case) and len(names) > _MAX_NAMES:
        return f"all {len(names)}"
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more or "none"


def _aligned(rows: Sequence[Sequence[str]], left: Sequence[int]) -> list[str]:
    """Lines with columns of one width each, to the right except for the columns in `left`."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def cli() -> None:
    """The console script."""
    run(main, FLAGS)


if __name__ == "__main__":
    cli()
