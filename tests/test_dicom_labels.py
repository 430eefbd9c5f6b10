"""DICOM SEG and RTSTRUCT become the masks that they were made from, placed by position."""

import sys
from pathlib import Path

import highdicom
import numpy as np
import pytest
from dicom_files import ORIGIN, SHAPE, ct_slice, write_series
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import RTStructureSetStorage

from data_tools import dicom_labels, label_reader
from data_tools.layouts import CaseSource, DataSet
from data_tools.reading import ReadOptions
from tl3d_keras import resampling, volume_io, volumes
from tl3d_keras.errors import InputError

STEP = (0.0, 0.4, 1.9)


@pytest.fixture
def series(tmp_path, rng):
    pixels = rng.integers(0, 3000, SHAPE).astype(np.uint16)
    slices = write_series(tmp_path / "scan", pixels, step=STEP)
    return slices, volume_io.read(tmp_path / "scan")


def masks() -> dict[str, np.ndarray]:
    liver, spleen = np.zeros((2, *SHAPE), bool)
    liver[1:3, 2:9, 3:8] = True
    liver[4, 5, 5] = True
    spleen[2, 6:12, 0:4] = True
    return {"liver": liver, "spleen": spleen}


def description(number: int, name: str) -> highdicom.seg.SegmentDescription:
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=codes.SCT.Organ,
        segmented_property_type=codes.SCT.Liver,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
    )


def write_seg(path: Path, slices, array: np.ndarray, names, kind="BINARY", **changes) -> Path:
    segmentation = highdicom.seg.Segmentation(
        source_images=slices,
        pixel_array=array,
        segmentation_type=kind,
        segment_descriptions=[description(i, n) for i, n in enumerate(names, 1)],
        series_instance_uid="1.2.3.99",
        series_number=9,
        sop_instance_uid="1.2.3.99.1",
        instance_number=1,
        manufacturer="tests",
        manufacturer_model_name="tests",
        software_versions="1",
        device_serial_number="1",
        **changes,
    )
    segmentation.save_as(path)
    return path


def stacked(found: dict[str, np.ndarray]) -> np.ndarray:
    return np.stack(list(found.values()), -1)


def assert_same(found, expected) -> None:
    assert list(found) == list(expected)
    for name, mask in expected.items():
        assert found[name].dtype == bool
        np.testing.assert_array_equal(found[name], mask, err_msg=name)


@pytest.mark.parametrize("empty", [True, False])
def test_segments_lie_where_they_were_drawn(tmp_path, series, empty):
    slices, image = series
    # From the last slice to the first, with the second one left out of the sources.
    order = [4, 2, 1, 0] if empty else [4, 3, 2, 1, 0]
    array = stacked(masks())[order].astype(np.uint8)
    path = write_seg(
        tmp_path / "seg.dcm",
        [slices[z] for z in order],
        array,
        ["liver", "spleen"],
        omit_empty_frames=empty,
    )
    assert dicom_labels.is_dicom_label(path)
    assert_same(dicom_labels.read(path, image), masks())


def test_fractional_segments_count_from_half(tmp_path, series):
    slices, image = series
    array = masks()["liver"][..., None] * 0.7 + masks()["spleen"][..., None] * 0.2
    path = write_seg(tmp_path / "seg.dcm", slices, array, ["liver"], "FRACTIONAL")
    assert_same(dicom_labels.read(path, image), {"liver": masks()["liver"]})


def test_a_label_map(tmp_path, series):
    slices, image = series
    array = np.where(masks()["spleen"], 2, masks()["liver"]).astype(np.uint8)
    path = write_seg(tmp_path / "seg.dcm", slices, array, ["liver", "spleen"], "LABELMAP")
    assert dicom_labels.is_dicom_label(path)
    assert_same(dicom_labels.read(path, image), {"liver": array == 1, "spleen": array == 2})


def test_a_segment_without_frames_is_empty(tmp_path, series):
    slices, image = series
    expected = {"liver": masks()["liver"], "spleen": np.zeros(SHAPE, bool)}
    array = stacked(expected).astype(np.uint8)
    path = write_seg(tmp_path / "seg.dcm", slices, array, ["liver", "spleen"])
    assert_same(dicom_labels.read(path, image), expected)


def contour(z: int, corners, kind="CLOSED_PLANAR") -> Dataset:
    """Corners as (row, column) of slice z."""
    item = Dataset()
    item.ContourGeometricType = kind
    place = np.array(ORIGIN) + z * np.array(STEP)
    points = [place + (1.5 * column, 0.75 * row, 0) for row, column in corners]
    item.NumberOfContourPoints = len(points)
    item.ContourData = [f"{value:.4f}" for value in np.ravel(points)]
    return item


def box(z: int, top: float, left: float, bottom: float, right: float) -> Dataset:
    return contour(z, [(top, left), (top, right), (bottom, right), (bottom, left)])


def write_structures(path: Path, regions) -> Path:
    """Writes an RTSTRUCT of (name, contours)."""
    dataset = ct_slice(np.zeros((1, 1), np.uint16), ORIGIN, Modality="RTSTRUCT")
    for name in ("Rows", "Columns", "PixelData", "ImagePositionPatient"):
        delattr(dataset, name)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    names, contours = [], []
    for number, (name, items) in enumerate(regions, 1):
        region, drawn = Dataset(), Dataset()
        region.ROINumber, region.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ContourSequence = number, items
        names.append(region)
        contours.append(drawn)
    dataset.StructureSetROISequence, dataset.ROIContourSequence = names, contours[::-1]
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_contours_are_filled(tmp_path, series):
    _, image = series
    triangle = [(1.5, 1.5), (1.5, 8.4), (8.4, 1.5)]
    path = write_structures(
        tmp_path / "rt.dcm",
        [
            (
                "liver",
                [
                    box(2, 1.5, 2.5, 8.5, 7.5),
                    box(2, 3.5, 3.5, 5.5, 4.5),
                    box(4, -0.4, -0.4, 11.4, 9.4),
                ],
            ),
            ("spleen", [contour(0, triangle), contour(1, [(4, 4)], "POINT")]),
            ("isocentre", [contour(0, [(3, 3)], "POINT")]),
        ],
    )
    liver, spleen = np.zeros((2, *SHAPE), bool)
    liver[2, 2:9, 3:8] = True
    liver[2, 4:6, 4] = False
    liver[4] = True
    rows, columns = np.indices(SHAPE[1:])
    spleen[0] = (rows > 1.5) & (columns > 1.5) & (rows + columns < 9.9)
    assert dicom_labels.is_dicom_label(path)
    assert_same(dicom_labels.read(path, image), {"spleen": spleen, "liver": liver})


def test_the_grid_may_run_any_way(tmp_path, series):
    slices, image = series
    array = stacked(masks()).astype(np.uint8)
    seg = write_seg(tmp_path / "seg.dcm", slices, array, ["liver", "spleen"])
    rt = write_structures(tmp_path / "rt.dcm", [("liver", [box(2, 1.5, 2.5, 8.5, 7.5)])])
    turned = volumes.from_sitk(resampling.sitk.DICOMOrient(volumes.to_sitk(image), "SAR"))
    assert turned.shape != image.shape
    for path, name in ((seg, "liver"), (seg, "spleen"), (rt, "liver")):
        there = dicom_labels.read(path, turned)[name]
        back = resampling.canonical(turned.with_array(there[..., None].astype(np.uint8)))
        here = resampling.canonical(
            image.with_array(dicom_labels.read(path, image)[name][..., None].astype(np.uint8))
        )
        assert here.array.any()
        np.testing.assert_array_equal(back.array, here.array)


def two_names(path, slices):
    write_structures(path, [("a", [box(1, 1, 1, 3, 3)]), ("a", [box(2, 1, 1, 3, 3)])])


def between_slices(path, slices):
    write_structures(path, [("a", [box(1.5, 1, 1, 3, 3)])])


def above(path, slices):
    write_structures(path, [("a", [box(7, 1, 1, 3, 3)])])


def beside(path, slices):
    write_structures(path, [("a", [box(1, 8, 1, 15, 3)])])


def nothing(path, slices):
    write_structures(path, [("a", [])])


def moved_frames(path, slices):
    for slice_ in slices:
        slice_.ImagePositionPatient = [p + 0.5 for p in slice_.ImagePositionPatient]
    write_seg(path, slices, stacked(masks()).astype(np.uint8), masks())


def frames_off_the_image(path, slices):
    for slice_ in slices:
        slice_.ImagePositionPatient = [
            p + 4 * s for p, s in zip(slice_.ImagePositionPatient, STEP, strict=True)
        ]
    write_seg(path, slices, stacked(masks()).astype(np.uint8), masks())


def coarse_frames(path, slices):
    for slice_ in slices:
        slice_.PixelSpacing = [1.0, 1.0]
    write_seg(path, slices, stacked(masks()).astype(np.uint8), masks())


def same_names(path, slices):
    write_seg(path, slices, stacked(masks()).astype(np.uint8), ["a", "a"])


def cut_short(path, slices):
    write_seg(path, slices, stacked(masks()).astype(np.uint8), masks())
    path.write_bytes(path.read_bytes()[:-60])


def garbage(path, slices):
    path.write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 200)


def a_slice(path, slices):
    slices[0].save_as(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (two_names, "expected structures of different names, found two 'a'"),
        (same_names, "expected structures of different names, found two 'a'"),
        (between_slices, r"expected contours of 'a' in slices of the image, .* \[1\.5, "),
        (above, r"expected contours of 'a' in slices of the image, .* \[7\.0, "),
        (beside, "expected contours of 'a' in slices of the image"),
        (nothing, "expected structures, found none"),
        (moved_frames, "expected frames on the grid of the image, found one at voxel "),
        (frames_off_the_image, r"expected frames on the grid .* \(z, y, x\) of \(5, 12, 10\)"),
        (coarse_frames, "expected frames "),
        (cut_short, "cannot read: "),
        (garbage, "cannot read: |expected a DICOM SEG or RTSTRUCT"),
        (a_slice, "expected a DICOM SEG or RTSTRUCT, found the class 1.2.840.10008.5.1.4.1.1.2$"),
    ],
)
def test_labels_that_cannot_be_placed(tmp_path, series, make, message):
    slices, image = series
    make(tmp_path / "label.dcm", slices)
    with pytest.raises(InputError, match=message) as raised:
        dicom_labels.read(tmp_path / "label.dcm", image)
    assert str(raised.value).startswith(str(tmp_path)) and "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["SEG", "RTSTRUCT"])
def test_another_frame_of_reference_is_doubted(tmp_path, series, kind):
    slices, _ = series
    if kind == "SEG":
        path = write_seg(tmp_path / "seg.dcm", slices, masks()["liver"], ["liver"])
    else:
        path = write_structures(tmp_path / "rt.dcm", [("liver", [box(1, 1, 1, 4, 4)])])
    scan = tmp_path / "scan"
    assert dicom_labels.about_frame(path, scan, None) == []
    dataset = dcmread(path)
    dataset.FrameOfReferenceUID = "1.2.777"
    dataset.save_as(path)
    (doubt,) = dicom_labels.about_frame(path, scan, "thorax")
    assert doubt.startswith(f"{path.name} is of the frame of reference 1.2.777, scan of 1.2.4: was")
    case = CaseSource("a", (scan,), path, None)
    image = volume_io.read(scan)
    found = label_reader.read(case, image, DataSet(("liver",), ("CT",), {}, (case,)), ReadOptions())
    assert f"a: {doubt}" in found.warnings
    # A region may say it by itself; of what has none, and of other images, nothing is known.
    dataset.StructureSetROISequence = [Dataset()]
    dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.4"
    dataset.save_as(path)
    assert dicom_labels.about_frame(path, scan, None) == []
    del dataset.FrameOfReferenceUID, dataset.StructureSetROISequence
    dataset.save_as(path)
    assert dicom_labels.about_frame(path, scan, None) == []
    assert dicom_labels.about_frame(path, scan / "001.dcm", None) == []


def test_what_is_no_dicom_label(tmp_path, series):
    slices, _ = series
    slices[0].save_as(tmp_path / "slice.dcm")
    (tmp_path / "short").write_bytes(b"abc")
    for name in ("slice.dcm", "short", "absent", "scan"):
        assert not dicom_labels.is_dicom_label(tmp_path / name)


def test_the_extra_is_named(tmp_path, series, monkeypatch):
    path = write_structures(tmp_path / "rt.dcm", [("a", [box(1, 1, 1, 3, 3)])])
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match=r'rt.dcm: .* pip install "tl3d-keras\[dicom\]"$'):
        dicom_labels.is_dicom_label(path)
    with pytest.raises(InputError, match=r'rt.dcm: .* pip install "tl3d-keras\[dicom\]"$'):
        dicom_labels.read(path, series[1])
