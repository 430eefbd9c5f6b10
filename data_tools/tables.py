"""What a manifest says, as lines of text."""

from collections.abc import Sequence

import numpy as np

from tl3d_keras.manifest import CaseEntry, Manifest
from tl3d_keras.text_table import aligned

# More names than these make a line nobody reads.
_MAX_NAMES = 4


def summary(content: Manifest) -> list[str]:
    """What holds for the whole set."""
    size = sum(shard.bytes for shard in content.shards) / 2**20
    spacing = ", ".join(f"{s:g}" for s in content.spacing)
    return [
        f"{len(content.cases)} cases, {len(content.structures)} structures",
        f"channels: {', '.join(content.channels)}; spacing {spacing} mm (z, y, x)",
        f"{len(content.shards)} shards, {size:.1f} MiB, fingerprint {content.fingerprint}, "
        f"written by tl3d-keras {content.tool_version}",
    ]


def notes(content: Manifest) -> list[str]:
    """What the data propose, which cases are not among the records, and which look doubtful."""
    skipped = [f"{case['case_id']} skipped: {case['reason']}" for case in content.skipped]
    doubtful = [warning for case in content.cases for warning in case.warnings]
    return [*content.proposal.reasons, *skipped, *doubtful]


def case_table(content: Manifest, cases: Sequence[CaseEntry]) -> list[str]:
    """One line a case: shape, annotated slices and share of voxels, structures annotated."""
    rows = [("case", "shape z,y,x", "annotated slices", "voxels", "structures annotated")]
    for case in cases:
        rows.append(
            (
                case.case_id,
                " x ".join(str(n) for n in case.shape[:3]),
                f"{case.coverage['annotated']['slices']} of {case.shape[0]}",
                f"{annotated_voxels(case):.1%}",
                _names(content, case),
            )
        )
    return aligned(rows, left=(0, 4))


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
    return aligned(rows)


def annotated_voxels(case: CaseEntry) -> float:
    """The share of a case's voxels that are annotated, in [0, 1]."""
    return case.coverage["annotated"]["voxels"] / int(np.prod(case.shape[:3]))


def _names(content: Manifest, case: CaseEntry) -> str:
    names = case.annotated_structures
    if content.is_fully_labelled(case) and len(names) > _MAX_NAMES:
        return f"all {len(names)}"
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more or "none"
