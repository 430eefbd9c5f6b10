"""What is an object, what is not, and what is not even a file."""

from dataclasses import dataclass

import pytest

from tl3d_keras import json_file
from tl3d_keras.errors import InputError


def test_object(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1, null]}')
    assert json_file.read_object(tmp_path / "a.json", "a folder") == {"a": [1, None]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "a.json: cannot read: No such file or directory; expected a folder of ours$"),
        (b"{", "a.json: not valid JSON: "),
        (b"\xff\xfe", "a.json: not valid JSON: "),
        (b"[" * 100_000, "a.json: not valid JSON: "),
        (b"[]", "a.json: expected a JSON object, found list$"),
        (b"null", "a.json: expected a JSON object, found NoneType$"),
        (b'{"a": NaN}', "a.json: not valid JSON: NaN is no number$"),
        (b'{"a": -1e999}', "a.json: not valid JSON: -1e999 is no number$"),
        (b'{"a": 1, "a": 2}', "a.json: not valid JSON: a key is given twice in one object$"),
    ],
)
def test_anything_else_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        json_file.read_object(tmp_path / "a.json", "a folder of ours")
    assert "\n" not in str(error.value)


@dataclass(frozen=True)
class Pair:
    name: str
    sizes: tuple[int, int]


def test_values_as_the_class_that_they_should_be():
    found = json_file.typed({"name": "a", "sizes": [1, 2]}, Pair, "a.json: no pair")
    assert found == Pair("a", (1, 2))
    with pytest.raises(InputError, match="^a.json: no pair: sizes.1: Input should be a valid int"):
        json_file.typed({"name": "a", "sizes": [1, "x"]}, Pair, "a.json: no pair")
    with pytest.raises(InputError, match=r"^a.json: no pair: sizes: Field required$"):
        json_file.typed({"name": "a"}, Pair, "a.json: no pair")
