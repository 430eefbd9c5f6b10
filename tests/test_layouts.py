"""What a `dataset.json` says, and the one line about what it should have said."""

import json
from pathlib import Path

import pytest
from layout_files import linked

from data_tools import layouts
from data_tools.layouts import CaseSource
from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError

LABELS = {"0": "background", "1": "liver", "2": "spleen"}

DECATHLON = {"modality": {"0": "CT"}, "labels": LABELS, "training": []}

NNUNET = {
    "channel_names": {"0": "T1", "1": "FLAIR"},
    "file_ending": ".nrrd",
    "labels": {"background": 0, "oedema": 1, "tumour": 2, "ignore": 3},
}


def data_set(folder: Path, content, *files: str) -> Path:
    """A folder with this `dataset.json` and empty files."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "dataset.json").write_text(text)
    return folder


def test_decathlon(tmp_path):
    training = [
        {"image": "./imagesTr/b.nii.gz", "label": "./labelsTr/b.nii.gz"},
        {"image": "imagesTr/a.mha", "label": "labelsTr/a.mha"},
        "imagesTr/unlabelled.nrrd",
        {"image": "imagesTr/alone.nrrd"},
    ]
    folder = data_set(
        tmp_path,
        {**DECATHLON, "training": training},
        "imagesTr/b.nii.gz",
        "labelsTr/b.nii.gz",
        "imagesTr/a.mha",
        "labelsTr/a.mha",
        "imagesTr/unlabelled.nrrd",
        "imagesTr/alone.nrrd",
    )
    found = layouts.read_layout(folder)
    assert found.structures == ("liver", "spleen") and found.channels == ("CT",)
    assert found.file_values == {0: 0, 1: 1, 2: 2, IGNORE: IGNORE}
    images, labels, both = folder / "imagesTr", folder / "labelsTr", ("liver", "spleen")
    assert found.cases == (
        CaseSource("b", (images / "b.nii.gz",), labels / "b.nii.gz", both),
        CaseSource("a", (images / "a.mha",), labels / "a.mha", both),
        CaseSource("unlabelled", (images / "unlabelled.nrrd",), None, both),
        CaseSource("alone", (images / "alone.nrrd",), None, both),
    )


def test_decathlon_with_a_file_a_channel(tmp_path):
    files = ["imagesTr/a_0000.nrrd", "imagesTr/a_0001.nrrd"]
    folder = data_set(
        tmp_path,
        {**DECATHLON, "modality": {"1": "T2", "0": "T1"}, "training": [{"image": files}]},
        *files,
    )
    found = layouts.read_layout(folder)
    assert found.channels == ("T1", "T2")
    assert found.cases[0].case_id == "a"
    assert found.cases[0].images == tuple(folder / name for name in files)


def nnunet_files(*cases: str) -> list[str]:
    return [
        name
        for case in cases
        for name in (
            f"imagesTr/{case}_0000.nrrd",
            f"imagesTr/{case}_0001.nrrd",
            f"labelsTr/{case}.nrrd",
        )
    ]


def test_nnunet(tmp_path):
    folder = data_set(tmp_path, NNUNET, *nnunet_files("p2", "p1"), "imagesTr/p3_0000.nii.gz")
    found = layouts.read_layout(folder)
    assert found.structures == ("oedema", "tumour") and found.channels == ("T1", "FLAIR")
    assert found.file_values == {0: 0, 1: 1, 2: 2, 3: IGNORE, IGNORE: IGNORE}
    images = folder / "imagesTr"
    assert [case.case_id for case in found.cases] == ["p1", "p2"]
    assert found.cases[0].images == (images / "p1_0000.nrrd", images / "p1_0001.nrrd")
    assert found.cases[0].label == folder / "labelsTr" / "p1.nrrd"


def test_values_with_gaps_become_labels_in_order(tmp_path):
    labels = {"40": "spleen", "7": "liver", "0": "background", "300": "Unannotated"}
    folder = data_set(tmp_path, {**DECATHLON, "labels": labels, "training": ["a.nrrd"]}, "a.nrrd")
    found = layouts.read_layout(folder)
    assert found.structures == ("liver", "spleen")
    assert found.file_values == {0: 0, 7: 1, 40: 2, 300: IGNORE, IGNORE: IGNORE}
    assert layouts.read_labels(folder / "dataset.json") == (found.structures, found.file_values)


def test_annotated_labels(tmp_path):
    content = {**DECATHLON, "training": ["a.nrrd", "b.nrrd"], "annotated_labels": {"b": ["spleen"]}}
    folder = data_set(tmp_path, content, "a.nrrd", "b.nrrd")
    assert [c.annotated for c in layouts.read_layout(folder).cases] == [
        ("liver", "spleen"),
        ("spleen",),
    ]
    assert layouts.read_annotated(folder / "dataset.json") == {"b": ("spleen",)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{'a': 1}", "not valid JSON: "),
        ([1, 2], "expected a JSON object, found list"),
        ({**DECATHLON, "labels": None}, 'expected "labels", found None'),
        ({**DECATHLON, "labels": {"0": "background"}}, "expected 1 to 254 structures, found 0"),
        (
            {**DECATHLON, "labels": {str(v): f"s{v}" for v in range(1, 256)}},
            "expected 1 to 254 structures, found 255",
        ),
        ({**DECATHLON, "labels": {"1": "liver", "liver": 1}}, "labels 'liver' and 'liver' share 1"),
        ({**DECATHLON, "labels": {"1": "liver", "2": "liver"}}, "structures of different names"),
        ({**DECATHLON, "labels": {"whole": [1, 2]}}, r"one whole number .* 'whole', .*\[1, 2\]"),
        ({**DECATHLON, "modality": None}, r'expected "modality" or "channel_names" .* found None'),
        (
            {**DECATHLON, "modality": {"CT": "0"}},
            "expected channels numbered 0, 1, ..., found 'CT'",
        ),
        ({**DECATHLON, "training": None}, 'expected a list "training"'),
        (DECATHLON, "expected training cases, found none"),
        (
            {**DECATHLON, "training": [{"label": "a.nrrd"}]},
            r'expected {"image": .* found {\'label\'',
        ),
        ({**DECATHLON, "training": [3]}, r'expected {"image": .* found 3'),
        ({**DECATHLON, "training": ["a.nrrd", "b/a.nii"]}, "the case a is listed twice"),
        (
            {**DECATHLON, "training": ["../b.nrrd"]},
            r"expected files inside .* found '\.\./b\.nrrd'",
        ),
        (
            {**DECATHLON, "training": ["/etc/passwd"]},
            "expected files inside .* found '/etc/passwd'",
        ),
        (
            {**DECATHLON, "training": ["a.nrrd"], "annotated_labels": ["a"]},
            'expected "annotated_labels" as',
        ),
        (
            {**DECATHLON, "training": ["a.nrrd"], "annotated_labels": {"a": 1}},
            'expected "annotated_labels" as',
        ),
        (
            {**DECATHLON, "training": ["a.nrrd"], "annotated_labels": {"a": ["heart"]}},
            "\"annotated_labels\" of 'a' names 'heart'; the structures are liver, spleen",
        ),
        (
            {**DECATHLON, "training": ["a.nrrd"], "annotated_labels": {"z": ["liver"]}},
            "\"annotated_labels\" names the case 'z', which is not among the training cases",
        ),
        ({**NNUNET, "file_ending": ".png"}, "expected \"file_ending\" of .* found '.png'"),
        (NNUNET, "expected files such as imagesTr/CASE_0000.nrrd, found none"),
        ({**DECATHLON, "training": []}, "expected training cases, found none"),
    ],
)
def test_dataset_json_that_cannot_be_used(tmp_path, content, message):
    folder = data_set(tmp_path, content, "a.nrrd", "b/a.nii")
    with pytest.raises(InputError, match=message) as raised:
        layouts.read_layout(folder)
    assert str(raised.value).startswith(f"{folder / 'dataset.json'}: ")
    assert "\n" not in str(raised.value)


def test_no_dataset_json(tmp_path):
    with pytest.raises(
        InputError, match="expected a Decathlon or nnU-Net folder .* found none of them"
    ):
        layouts.read_layout(tmp_path)


def test_listed_file_is_missing(tmp_path):
    folder = data_set(
        tmp_path, {**DECATHLON, "training": [{"image": "a.nrrd", "label": "l.nrrd"}]}, "a.nrrd"
    )
    with pytest.raises(InputError, match="/l.nrrd: no such file, though .*dataset.json lists it"):
        layouts.read_layout(folder)


@pytest.mark.parametrize("missing", ["imagesTr/p1_0001.nrrd", "labelsTr/p1.nrrd"])
def test_nnunet_file_is_missing(tmp_path, missing):
    folder = data_set(tmp_path, NNUNET, *nnunet_files("p1"))
    (folder / missing).unlink()
    with pytest.raises(InputError, match=f"{missing}: no such file, though .*_0000.nrrd is there"):
        layouts.read_layout(folder)


def test_links_are_followed(tmp_path):
    files = [*nnunet_files("p1"), "annotatedTr/p1.nrrd"]
    folder = data_set(tmp_path / "set", NNUNET, *files)
    plain = layouts.read_layout(folder)
    linked(tmp_path, folder, "labelsTr/p1.nrrd", "imagesTr", "annotatedTr/p1.nrrd", "dataset.json")
    assert layouts.read_layout(folder) == plain
    (tmp_path / "second").symlink_to(folder)
    assert layouts.read_layout(tmp_path / "second").cases[0].images[0].exists()


def test_link_to_nothing(tmp_path):
    folder = data_set(tmp_path, {**DECATHLON, "training": ["a.nrrd"]})
    (folder / "a.nrrd").symlink_to("annex/a.nrrd")
    with pytest.raises(InputError, match="a.nrrd: a link to annex/a.nrrd, though .*lists it"):
        layouts.read_layout(folder)


def test_no_way_up_behind_a_link(tmp_path):
    (tmp_path / "secret.nrrd").touch()
    (tmp_path / "linked").mkdir()
    (tmp_path / "set").mkdir()
    (tmp_path / "set/link").symlink_to(tmp_path / "linked")
    folder = data_set(tmp_path / "set", {**DECATHLON, "training": ["link/../secret.nrrd"]})
    assert (folder / "link/../secret.nrrd").exists()
    with pytest.raises(InputError, match=r"expected files inside .* 'link/\.\./secret.nrrd'"):
        layouts.read_layout(folder)


def test_what_systems_leave_in_folders_is_no_case(tmp_path):
    files = nnunet_files("p1")
    junk = [f"{Path(name).parent}/._{Path(name).name}" for name in files]
    folder = data_set(tmp_path, NNUNET, *files, *junk, "imagesTr/.DS_Store", "labelsTr/Thumbs.db")
    assert [case.case_id for case in layouts.read_layout(folder).cases] == ["p1"]


def test_nnunet_file_ending_as_it_is_written(tmp_path):
    files = [name.replace(".nrrd", ".NRRD") for name in nnunet_files("p1")]
    folder = data_set(tmp_path, NNUNET, *files)
    with pytest.raises(InputError, match=r"such as imagesTr/CASE_0000\.nrrd, found .*NRRD"):
        layouts.read_layout(folder)
    data_set(tmp_path, {**NNUNET, "file_ending": ".NRRD"})
    assert [case.case_id for case in layouts.read_layout(folder).cases] == ["p1"]


def test_annotated_mask_a_case(tmp_path):
    files = [*nnunet_files("p1", "p2"), "annotatedTr/p2.nii.gz"]
    folder = data_set(tmp_path, NNUNET, *files)
    masks = [case.annotated_mask for case in layouts.read_layout(folder).cases]
    assert masks == [None, folder / "annotatedTr/p2.nii.gz"]
    (folder / "annotatedTr/p3.nii.gz").touch()
    with pytest.raises(InputError, match="p3.nii.gz: expected the annotated mask of a labelled"):
        layouts.read_layout(folder)


def test_a_dataset_json_names_its_own_structures(tmp_path):
    folder = data_set(tmp_path, NNUNET, *nnunet_files("p1"))
    for flag in ("structures", "channel_names"):
        with pytest.raises(InputError, match=f"--{flag}: .*dataset.json names them; .* found a,b"):
            layouts.read_layout(folder, **{flag: ["a", "b"]})
