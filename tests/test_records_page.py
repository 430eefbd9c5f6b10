"""The page of a record set: the order of its cases, what their bars say, and that it is whole."""

import base64
import json
import re
from dataclasses import replace

import pages
import pytest
from helpers import case_entry, make_manifest

from data_tools import records_page
from tl3d_keras.manifest import CaseEntry, Proposal

NAME = 'a<b> & "c"'
PICTURE = b"\xff\xd8picture"


def case(name: str, voxels: int, annotated: dict[str, int]) -> CaseEntry:
    """A case of 10 x 10 x 10 voxels with as many annotated; `annotated`: voxels by structure."""
    coverage = {"annotated": {"slices": voxels // 100, "voxels": voxels}}
    for structure in ("liver", NAME):
        count = annotated.get(structure, 0)
        coverage[structure] = {"slices": min(count, 4), "voxels": count}
    return case_entry(
        name, shape=(10, 10, 10, 1), annotated_structures=list(annotated), coverage=coverage
    )


CASES = [
    case("whole", 1000, {"liver": 30, NAME: 8}),
    case("no_voxel", 500, {"liver": 60, NAME: 0}),
    case("half", 500, {"liver": 15, NAME: 2}),
    case("one_structure", 800, {"liver": 20}),
    case("unlabelled", 0, {}),
]
CONTENT = make_manifest(
    ["liver", NAME],
    CASES,
    spacing=(2.0, 5.0, 10.0),
    proposal=Proposal((2.0, 5.0, 10.0), None, (8, 8, 8), ["Patch: <48>"]),
    skipped=[{"case_id": "bad", "reason": "bad.nrrd: empty"}],
)


@pytest.fixture(scope="module")
def page() -> str:
    pictures = [PICTURE + str(i).encode() for i in range(len(CASES))]
    return records_page.build("Records: x", CONTENT, CASES, pictures)


def test_worst_case_comes_first(page):
    assert re.findall("<h3>(.*?)</h3>", page) == [
        "unlabelled",
        "one_structure",
        "no_voxel",
        "half",
        "whole",
    ]


@pytest.mark.parametrize(("index", "share"), [(0, 1.0), (1, 0.5), (3, 0.4), (4, 0.0)])
def test_share_averages_over_the_structures(index, share):
    assert records_page.annotated_share(CONTENT, CASES[index]) == pytest.approx(share)


def test_every_picture_is_with_its_case(page):
    images = [attributes for tag, attributes in pages.Page(page).seen if tag == "img"]
    assert [i["alt"] for i in images][:2] == ["slices of unlabelled", "slices of one_structure"]
    shown = [base64.b64decode(i["src"].removeprefix("data:image/jpeg;base64,")) for i in images]
    assert shown[:2] == [PICTURE + b"4", PICTURE + b"3"]
    assert all(i["loading"] == "lazy" for i in images)


def test_keys_to_sort_by(page):
    keys = [json.loads(a["data-keys"]) for tag, a in pages.Page(page).seen if "data-keys" in a]
    assert keys == [
        [0, 3, 0, 0, 0, None, None],
        [1, 2, 0.8, 8, 1, 2, None],
        [2, 1, 0.5, 5, 2, 6, 0],
        [3, 0, 0.5, 5, 2, 1.5, 0.2],
        [4, 4, 1, 10, 2, 3, 0.8],
    ]
    options = re.findall('<option value="(.*?)">(.*?)</option>', page)
    assert [value for value, _ in options] == ["", "5", "6"]


def test_bars(page):
    row = page.split("<h3>no_voxel</h3>")[1].split("</tr>")[0]
    bars = re.findall(r'class="bar (\w*)".*?--s:([\d.]+)%.*?<b>(.*?)</b>', row)
    assert bars == [
        ("", "50.0", "50.0%"),
        ("", "50.0", "5 of 10"),
        ("", "100.0", "2 of 2"),
        ("", "100.0", "6"),
        ("missing", "0.0", "none"),
    ]
    row = page.split("<h3>one_structure</h3>")[1].split("</tr>")[0]
    assert re.findall(r'class="bar (\w*)".*?--s:([\d.]+)%.*?<b>(.*?)</b>', row)[-2:] == [
        ("", "33.3", "2"),
        ("unknown", "0.0", "?"),
    ]


def test_structures_of_the_set(page):
    table = page.split("<tbody>")[1].split("</tbody>")[0]
    cells = [re.findall("<td[^>]*>(.*?)</td>", row) for row in table.split("</tr>")[:2]]
    assert cells == [
        ["4 of 5", "4", "16", "2.5", "1.5 to 6"],
        ["3 of 5", "2", "6", "0.5", "0.2 to 0.8"],
    ]


def test_page_is_whole_and_needs_no_network(page):
    read = pages.Page(page)
    assert not {tag for tag, _ in read.seen} & {"link", "iframe"}
    assert not any("src" in a for tag, a in read.seen if tag == "script")
    assert not re.search(r"https?://|url\(|@import", page)
    assert "default-src 'none'; img-src data:;" in page
    assert NAME not in page and NAME in read.words and "Patch: <48>" in read.words


def test_a_structure_that_nobody_annotated():
    cases = [replace(c, annotated_structures=[]) for c in CASES[:1]]
    page = records_page.build("x", replace(CONTENT, cases=cases), cases, [PICTURE])
    assert page.count('class="bar unknown"') == 3  # The legend's, and one a structure.
    assert "<td>-</td><td>-</td>" in page


def test_hundreds_of_cases_stay_small():
    names = [f"structure_{k}" for k in range(22)]
    coverage = {name: {"slices": 9, "voxels": 1234} for name in ("annotated", *names)}
    given = {"shape": (99, 99, 99, 1), "annotated_structures": names, "coverage": coverage}
    cases = [case_entry(f"{i}", **given) for i in range(200)]
    content = replace(CONTENT, structures=names, cases=cases)
    # Beside the pictures.
    assert len(records_page.build("x", content, cases, [b""] * 200)) < 200 * 6000
