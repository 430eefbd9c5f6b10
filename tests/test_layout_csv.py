"""Tables of cases: what they say, and the one line about what they should have said."""

import sys
import types
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import write_series
from layout_files import total

import data_tools
from data_tools import layouts
from data_tools.layouts import CaseSource, csv_table
from tl3d_keras import volumes
from tl3d_keras.annotation import IGNORE
from tl3d_keras.errors import InputError


def table(folder: Path, text: str, *files: str) -> Path:
    total(folder, *files)
    (folder / "cases.csv").write_text(text)
    return folder / "cases.csv"


def test_csv(tmp_path):
    text = (
        "\ufeffcase_id,image2,image,label,annotated_mask,annotated_labels\n"
        'a,x/t2.nrrd,x/t1.nrrd,x/l.nrrd,x/m.nrrd,"spleen; liver"\n'
        "\n"
        "b,x/t2.nrrd,x/t1.nrrd,x/l.nrrd,,\n"
        "c,x/t2.nrrd,x/t1.nrrd,,,\n"
    )
    files = [tmp_path / "x" / f"{name}.nrrd" for name in ("t1", "t2", "l", "m")]
    path = table(tmp_path, text, *(str(file.relative_to(tmp_path)) for file in files))
    t1, t2, label, mask = files
    for source in (path, tmp_path):
        found = layouts.read_layout(source, ["spleen", "liver", "heart"], ["T1", "T2"])
        assert found.structures == ("spleen", "liver", "heart") and found.channels == ("T1", "T2")
        assert found.file_values == {0: 0, 1: 1, 2: 2, 3: 3, IGNORE: IGNORE}
        assert found.cases == (
            CaseSource("a", (t1, t2), label, ("spleen", "liver"), annotated_mask=mask),
            CaseSource("b", (t1, t2), label, found.structures),
            CaseSource("c", (t1, t2), None, found.structures),
        )


HEADER = "case_id,image,label\n"


def test_csv_as_spreadsheets_write_it_where_the_comma_is_decimal(tmp_path):
    text = 'case_id;image;label;annotated_labels\r\n"a,1";i.nrrd;l.nrrd;"liver;heart"\r\n;;;\r\n'
    found = layouts.read_layout(table(tmp_path, text, "i.nrrd", "l.nrrd"), ["heart", "liver"], "T")
    assert [(case.case_id, case.annotated) for case in found.cases] == [("a,1", ("liver", "heart"))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the header case_id,image.* found ''"),
        ("case_id;image\na;i.nrrd\n", "expected the header .* found 'case_id,image'"),
        ("case_id,image,image3,label\n", "expected the header"),
        ("case_id,image,label,annotated_label\n", "expected the header"),
        ("case_id,image,image,label\n", "expected the header"),
        (HEADER, "expected a row for each case, found none"),
        (HEADER + "a,i.nrrd\n", "expected 3 cells in line 2, found 2"),
        (HEADER + "a,i.nrrd,l.nrrd\na,i.nrrd,l.nrrd\n", "the case a is listed twice"),
        (HEADER + ",i.nrrd,l.nrrd\n", "expected the name of a case, found ''"),
        (HEADER + "../a,i.nrrd,l.nrrd\n", "expected the name of a case without /, found '../a'"),
        (HEADER + "a,,l.nrrd\n", "expected a file as image of a, found none"),
        (HEADER + "a,../i.nrrd,l.nrrd\n", r"expected files inside .* found '\.\./i\.nrrd'"),
        (HEADER + "a,i.nrrd,/etc/passwd\n", "expected files inside .* found '/etc/passwd'"),
        (HEADER + "a,i.nrrd,none.nrrd\n", "none.nrrd: no such file, though .*cases.csv lists it"),
        (HEADER + '"a,i.nrrd,l.nrrd\n', "not a CSV file in UTF-8: "),
        (HEADER + "a,i.nrrd,\x00\n", "expected|not a CSV"),
        (
            "case_id,image,label,annotated_mask\na,i.nrrd,,l.nrrd\n",
            "expected a label beside the annotated mask of a",
        ),
        (
            "case_id,image,label,annotated_labels\na,i.nrrd,l.nrrd,lung\n",
            "\"annotated_labels\" of a names 'lung'; the structures are liver",
        ),
        ("case_id,image,image2,label\na,i.nrrd,i.nrrd,\n", "--channel_names: expected 2 for the"),
    ],
)
def test_csv_that_cannot_be_used(tmp_path, text, message):
    path = table(tmp_path / "set", text, "i.nrrd", "l.nrrd")
    with pytest.raises(InputError, match=message) as raised:
        layouts.read_layout(path, ["liver"], ["CT"])
    assert "\n" not in str(raised.value)


def test_csv_names_that_nothing_says(tmp_path):
    path = table(tmp_path, HEADER + "a,i.nrrd,l.nrrd\n", "i.nrrd", "l.nrrd")
    with pytest.raises(InputError, match="such as CT and --structures, the names .* found neither"):
        layouts.read_layout(path)
    with pytest.raises(InputError, match="expected --channel_names such as CT, found none"):
        layouts.read_layout(path, ["liver"])
    with pytest.raises(InputError, match="expected --structures, the names of the label values"):
        layouts.read_layout(path, (), ["CT"])


def test_csv_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cases.csv: cannot read: No such file"):
        layouts.read_layout(tmp_path / "cases.csv")
    table(tmp_path, HEADER)
    (tmp_path / "more.csv").touch()
    with pytest.raises(InputError, match="expected .* one CSV file, found 2 CSV files"):
        layouts.read_layout(tmp_path)


def test_csv_of_dicom_series_of_which_one_is_chosen_or_none_says_what_it_is(tmp_path):
    pixels = np.zeros((2, 3, 4), np.uint16)
    write_series(tmp_path / "scan", pixels)
    write_series(
        tmp_path / "scan",
        pixels,
        prefix="b",
        Modality="PT",
        SeriesNumber=5,
        SeriesInstanceUID="1.2.3.2",
    )
    path = table(tmp_path, "case_id,image,label\na,scan,\n")
    assert layouts.read_layout(path, ["liver"], series="5").channels == ("PT",)
    with pytest.raises(InputError, match="expected --channel_names such as CT, found none"):
        layouts.read_layout(path, ["liver"])
    for file in (tmp_path / "scan").iterdir():
        slice_ = pydicom.dcmread(file)
        del slice_.Modality
        slice_.save_as(file, enforce_file_format=True)
    with pytest.raises(InputError, match="expected --channel_names such as CT, found none"):
        layouts.read_layout(path, ["liver"], series="4")


def test_csv_of_dicom_series_and_dicom_labels(tmp_path, monkeypatch):
    volume = volumes.Volume(np.zeros((2, 3, 4, 1), np.int16), (1.0, 1.0, 1.0))
    slices = volumes.to_sitk(volume)
    (tmp_path / "ct").mkdir()
    for z in range(2):
        image = slices[:, :, z]
        image.SetMetaData("0008|0060", "CT")
        sitk.WriteImage(image, str(tmp_path / "ct" / f"{z}.dcm"))
    names = {"a.dcm": ["spleen"], "b.dcm": ["liver", "aorta"]}
    stand_in = types.SimpleNamespace(
        is_dicom_label=lambda path: path.suffix == ".dcm",
        read=lambda path, image: dict.fromkeys(names[path.name]),
    )
    monkeypatch.setitem(sys.modules, "data_tools.dicom_labels", stand_in)
    monkeypatch.setattr(data_tools, "dicom_labels", stand_in, raising=False)
    monkeypatch.setattr(csv_table, "read_image", lambda paths, series: volume)
    text = "case_id,image,label,annotated_labels\na,ct,a.dcm,\nb,ct,b.dcm,liver;spleen\nc,ct,,\n"
    path = table(tmp_path, text, *names)
    found = layouts.read_layout(path)
    assert found.channels == ("CT",) and found.structures == ("aorta", "liver", "spleen")
    # Where the table does not say it, the file's own names do.
    assert [case.annotated for case in found.cases] == [
        None,
        ("liver", "spleen"),
        ("aorta", "liver", "spleen"),
    ]
    chosen = layouts.read_layout(path, ["spleen", "liver"])
    assert chosen.structures == ("spleen", "liver")
