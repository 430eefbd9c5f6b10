"""TotalSegmentator folders: which cases and structures they hold."""

import pytest
from layout_files import linked, total

from data_tools import layouts
from data_tools.layouts import CaseSource
from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError

TOTAL = (
    "s1/ct.nii.gz",
    "s1/segmentations/spleen.nii.gz",
    "s1/segmentations/liver.nii.gz",
    "s0/ct.nii.gz",
    "s0/segmentations/liver.nii.gz",
    # The published data set has a table beside its cases.
    "meta.csv",
)


def test_totalsegmentator(tmp_path):
    folder = total(tmp_path, *TOTAL)
    (folder / "papers").mkdir()
    found = layouts.read_layout(folder)
    assert found.structures == ("liver", "spleen") and found.channels == ("CT",)
    assert found.file_values == {0: 0, 1: 1, 2: 2, IGNORE: IGNORE}
    masks = [folder / "s1/segmentations" / f"{name}.nii.gz" for name in ("liver", "spleen")]
    liver = ("liver", folder / "s0/segmentations/liver.nii.gz")
    assert found.cases == (
        CaseSource("s0", (folder / "s0/ct.nii.gz",), None, ("liver",), (liver,)),
        CaseSource(
            "s1",
            (folder / "s1/ct.nii.gz",),
            None,
            ("liver", "spleen"),
            (("liver", masks[0]), ("spleen", masks[1])),
        ),
    )


def test_totalsegmentator_structures_are_a_choice_in_order(tmp_path):
    folder = total(tmp_path, *TOTAL)
    found = layouts.read_layout(folder, ["spleen", "liver"], ["portal venous CT"])
    assert found.structures == ("spleen", "liver") and found.channels == ("portal venous CT",)
    assert [name for name, _ in found.cases[1].masks] == ["spleen", "liver"]
    alone = layouts.read_layout(folder, ["spleen"])
    assert [case.annotated for case in alone.cases] == [(), ("spleen",)]
    with pytest.raises(InputError, match="--structures: expected names of .* found 'splen'"):
        layouts.read_layout(folder, ["splen"])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["s2/segmentations/liver.nii.gz"], "s2: expected ct.nii.gz or mri.nii.gz, found 0"),
        (["s1/mri.nii.gz"], "s1: expected ct.nii.gz or mri.nii.gz, found 2"),
        (["s2/mri.nii.gz"], "expected CT or MRI, found both; --channel_names names the two"),
        (["s0/segmentations/liver.nrrd"], "liver.nrrd: expected one file for liver, found .*"),
    ],
)
def test_totalsegmentator_that_cannot_be_used(tmp_path, files, message):
    with pytest.raises(InputError, match=message):
        layouts.read_layout(total(tmp_path, *TOTAL, *files))


def test_totalsegmentator_links_are_followed(tmp_path):
    folder = total(tmp_path / "set", *TOTAL)
    plain = layouts.read_layout(folder)
    linked(tmp_path, folder, "s0/segmentations/liver.nii.gz", "s0/ct.nii.gz", "s1")
    assert layouts.read_layout(folder) == plain
