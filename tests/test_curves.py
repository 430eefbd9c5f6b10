"""Training curves, and figures as files that are whole."""

import pytest

from tl3d_keras import figure_file
from tl3d_keras.curves import curves
from tl3d_keras.errors import InputError


def test_curves_are_the_rows():
    rows = [
        {
            "step": "10",
            "stage": "head",
            "dice": "0.2",
            "loss": "1.5",
            "validation_dice": "",
            "validation_dice/liver": "",
        },
        {
            "step": "20",
            "stage": "all",
            "dice": "0.4",
            "loss": "1.0",
            "validation_dice": "0.5",
            "validation_dice/liver": "0.5",
        },
    ]
    figure = curves(rows)
    loss, dice = figure.axes
    assert loss.lines[0].get_xydata().tolist() == [[10, 1.5], [20, 1.0]]
    by_name = {line.get_label(): line.get_xydata().tolist() for line in dice.lines}
    assert by_name["training patches"] == [[10, 0.2], [20, 0.4]]
    assert by_name["validation, mean"] == by_name["liver"] == [[20, 0.5]]
    # The new stage starts after the last row of the former.
    assert [(t.get_text(), t.get_position()[0]) for t in loss.texts] == [(" all", 10)]


@pytest.mark.parametrize("rows", [[], [{"loss": "1"}]])
def test_curves_without_steps_are_refused(rows):
    with pytest.raises(InputError, match=f"rows with a step.*found {len(rows)} rows"):
        curves(rows)


def test_png_appears_when_whole(tmp_path, monkeypatch):
    figure = curves([{"step": 1, "loss": 1.0}])
    path = tmp_path / "new" / "picture.png"
    figure_file.save_png(figure, path)
    before = path.read_bytes()
    assert before.startswith(b"\x89PNG")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(InputError, match="picture.png: cannot write: No space left"):
        figure_file.save_png(figure, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(InputError, match="a.jpg: expected a file name that ends in .png"):
        figure_file.save_png(curves([{"step": 1, "loss": 1.0}]), tmp_path / "a.jpg")
