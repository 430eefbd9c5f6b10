"""What a damaged folder of a run says when the run is to go on in it."""

import json
import shutil

import helpers
import pytest

from tl3d_keras.errors import InputError
from tl3d_keras.run_folder import RunFolder
from tl3d_keras.training_state import TrainingState

SETTINGS = {"steps": 4}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that ended after its checkpoint of step 2."""
    path = tmp_path_factory.mktemp("stopped") / "run"
    folder, state = RunFolder(path, SETTINGS), TrainingState(helpers.network())
    state.advance(2)
    folder.log({"step": 2, "stage": "all", "loss": 0.5})
    folder.save(state)
    folder.close()
    return path


@pytest.fixture
def go_on(stopped, tmp_path):
    """Goes on in a copy of the run, of which `change` has made a file's bytes other ones or None.

    Gives the step of the state that was restored.
    """

    def go_on(name, change):
        path = tmp_path / "run"
        shutil.copytree(stopped, path)
        changed = change((path / name).read_bytes())
        if changed is None:
            (path / name).unlink()
        else:
            (path / name).write_bytes(changed)
        folder, state = RunFolder(path, SETTINGS), TrainingState(helpers.network())
        try:
            folder.restore(state)
        finally:
            folder.close()
        return state.step

    return go_on


def cut(content):
    return content[:100]


def overwritten(content):
    middle = len(content) // 2
    return content[:middle] + b"x" * 50 + content[middle + 50 :]


def gone(content):
    return None


DATA, INDEX = "checkpoints/ckpt-2.data-00000-of-00001", "checkpoints/ckpt-2.index"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (DATA, cut),
        (DATA, overwritten),
        (DATA, gone),
        (INDEX, cut),
        (INDEX, overwritten),
        (INDEX, gone),
        ("checkpoints/checkpoint", lambda _: b"\xff\xfe"),
        ("checkpoints/checkpoint", lambda _: b""),
    ],
)
def test_a_damaged_checkpoint(go_on, caplog, name, change):
    message = "run/checkpoints: expected the last checkpoint of the run, found it damaged or incom"
    with pytest.raises(InputError, match=message):
        go_on(name, change)
    assert caplog.text == ""


@pytest.mark.parametrize("content", [b"step,loss\nx,2\n", b"a,b\n1,2\n"])
def test_damaged_metrics(go_on, content):
    with pytest.raises(InputError, match="metrics.csv: expected rows with a step, as a training "):
        go_on("metrics.csv", lambda _: content)


def changed(**values):
    return lambda content: json.dumps(json.loads(content) | values).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut, "run.json: not valid JSON: "),
        (lambda _: b"{}", "run.json: not that of a training run: settings: Field required"),
        (changed(settings=[]), "not that of a training run: settings: "),
        (changed(seconds="some"), "not that of a training run: seconds: "),
        (changed(skipped_steps=[{}]), "not that of a training run: skipped_steps.0.step: "),
        (changed(frozen="all"), "not that of a training run: frozen: "),
        (changed(settings={"steps": 5}), "run: holds a run with steps=5, found steps=4; give the"),
    ],
)
def test_a_damaged_note(go_on, change, message):
    with pytest.raises(InputError, match=message):
        go_on("run.json", change)


def test_what_is_not_damaged_goes_on(go_on):
    assert go_on("metrics.csv", lambda content: content) == 2
