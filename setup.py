"""Packaging of tl3d-keras; the tools' settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "tl3d_keras/__init__.py").read_text("utf-8"))[
    1
]

COMMANDS = {
    "tl3d-phantom": "data_tools.phantom",
    "tl3d-shard": "data_tools.shard",
    "tl3d-inspect": "data_tools.inspect",
    "tl3d-train": "experiments.train_base",
    "tl3d-transfer": "experiments.transfer",
    "tl3d-segment": "experiments.segment",
    "tl3d-evaluate": "experiments.evaluate",
    "tl3d-export": "experiments.export",
    "tl3d-report": "experiments.report",
    "tl3d-study": "experiments.size_study",
    "tl3d-client": "experiments.client",
    "tl3d-serve": "experiments.serve",
}

setup(
    name="tl3d-keras",
    version=VERSION,
    description="Transfer learning for 3D medical image segmentation in TensorFlow/Keras",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=[
        *find_packages(include=["tl3d_keras*", "data_tools*", "experiments*"]),
        "tl3d_keras.saved_models",
    ],
    package_dir={"tl3d_keras.saved_models": "saved_models"},
    package_data={"tl3d_keras.saved_models": ["**/*"], "experiments": ["studies/*.json"]},
    python_requires=">=3.10",
    install_requires=[
        "tensorflow>=2.15.1",
        "SimpleITK>=2.3",
        "numpy>=1.26",
        "scipy>=1.11",
        "absl-py>=2.0",
        "tensorboard",
        "h5py",
        "google-crc32c",
        "pydantic>=2.6",
        "matplotlib",
        "pillow",
        "tqdm",
    ],
    extras_require={
        "addons": [
            "tensorflow==2.15.1",
            "tensorflow-addons==0.23.0",
            "numpy==1.26.*",
            # onnx 1.19 needs a newer ml_dtypes than this TensorFlow takes, and doesn't say so.
            "onnx<1.19",
        ],
        "profile": ["tensorboard-plugin-profile"],
        "cluster": ["tf-keras", "apache-beam"],
        "serving": ["tensorflow-serving-api"],
        "onnx": ["onnx", "onnxruntime"],
        "dicom": ["pydicom"],
        "dev": [
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "ruff",
            "mypy",
            "pydicom",
            "highdicom",
            "tensorflow-serving-api",
            "onnx",
            "onnxruntime",
            "pyyaml",
        ],
    },
    entry_points={
        "console_scripts": [f"{name} = {module}:cli" for name, module in COMMANDS.items()]
    },
)
