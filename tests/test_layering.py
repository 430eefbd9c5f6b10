"""Imports run one way, Keras is TensorFlow's, and nothing heavy is imported before it is needed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tl3d_keras", "data_tools", "experiments")
FILES = sorted(
    path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")
)


def imported(source: str, path: Path) -> Iterator[str]:
    """The dotted names that the module at `path` imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = path.parts[: -node.level] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def forbidden(name: str, package: str) -> bool:
    """Whether a module of `package` may not import the dotted `name`."""
    top = name.split(".")[0]
    if top == "keras" or name.startswith(("tensorflow.keras", "tensorflow.python", "tf_keras")):
        return True
    if package == "tl3d_keras":
        return top in ("data_tools", "experiments")
    if package == "data_tools":
        return top == "experiments"
    return top == "experiments" and not name.startswith("experiments.training_flags")


def offences(path: Path, source: str) -> list[str]:
    return [name for name in imported(source, path) if forbidden(name, path.parts[0])]


def test_imports_run_one_way():
    found = {str(path): offences(path, (ROOT / path).read_text()) for path in FILES}
    assert {path: names for path, names in found.items() if names} == {}


def test_all_packages_are_walked():
    assert {path.parts[0] for path in FILES} == set(PACKAGES)
    assert len(FILES) > 30


@pytest.mark.parametrize(
    ("module", "line", "allowed"),
    [
        ("tl3d_keras/a.py", "from data_tools import shard", False),
        ("tl3d_keras/a.py", "def f():\n    import experiments.segment", False),
        ("tl3d_keras/a.py", "from tl3d_keras import errors", True),
        ("data_tools/a.py", "from experiments import training_flags", False),
        ("data_tools/a.py", "from tl3d_keras.errors import InputError", True),
        ("experiments/a.py", "from experiments import training_flags", True),
        ("experiments/a.py", "from experiments.training_flags import OUTPUT_DIR", True),
        ("experiments/a.py", "from experiments import segment", False),
        ("experiments/a.py", "from . import segment", False),
        ("experiments/a.py", "from .segment import main", False),
        ("experiments/b/a.py", "from ..segment import main", False),
        ("data_tools/b/a.py", "from .. import layouts", True),
        ("experiments/a.py", "import data_tools.shard, tl3d_keras", True),
        ("tl3d_keras/a.py", "import keras", False),
        ("tl3d_keras/a.py", "from keras.layers import Conv3D", False),
        ("tl3d_keras/a.py", "from tensorflow import keras", False),
        ("tl3d_keras/a.py", "import tensorflow.keras as keras", False),
        ("tl3d_keras/a.py", "import tensorflow as tf", True),
    ],
)
def test_the_rules_by_example(module, line, allowed):
    assert (offences(Path(module), line) == []) is allowed


@pytest.mark.parametrize(
    "module",
    [
        "tl3d_keras",
        "tl3d_keras.annotation",
        "tl3d_keras.volume_io",
        "tl3d_keras.manifest",
        "tl3d_keras.resampling",
        "data_tools.layouts",
        "data_tools.case_reader",
        "data_tools.shard",
    ],
)
def test_importing_is_light_and_quiet(module):
    code = (
        f"import sys, {module}; "
        "sys.exit(', '.join({'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
