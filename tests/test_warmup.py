"""Warm-up requests: written at export, read as TF Serving reads them, run before the first scan."""

import shutil
import sys

import helpers
import numpy as np
import pytest
import tensorflow as tf

from experiments import export
from tl3d_keras import artifact
from tl3d_keras.errors import InputError
from tl3d_keras.intensity import Intensity
from tl3d_keras.serving import warmup
from tl3d_keras.serving.loaded_version import LoadedVersion
from tl3d_keras.serving.protos import prediction_log_pb2


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    info = helpers.info(channels=("T1", "T2"), intensity=Intensity("zscore"))
    return artifact.save(
        helpers.network(input_channels=2),
        info,
        tmp_path_factory.mktemp("served") / "liver",
        extend=lambda folder: warmup.write(folder, "liver", info),
    )


def test_the_file_is_what_tf_serving_reads(version):
    path = version / "assets.extra" / "tf_serving_warmup_requests"
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record)
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]
    assert [log.WhichOneof("log_type") for log in logs] == ["predict_log"] * 3
    segment, oblique, default = (log.predict_log.request for log in logs)
    assert (segment.model_spec.name, segment.model_spec.signature_name) == ("liver", "segment")
    assert oblique.model_spec.signature_name == "segment_oblique"
    assert tf.make_ndarray(oblique.inputs["direction"]).shape == (9,)
    assert default.model_spec.signature_name == "serving_default"
    assert tf.make_ndarray(segment.inputs["image"]).shape == (16, 16, 16, 2)
    assert tf.make_ndarray(default.inputs["image"]).shape == (1, 16, 16, 16, 2)
    np.testing.assert_array_equal(tf.make_ndarray(segment.inputs["spacing"]), [2, 1, 1])
    assert path.stat().st_size < 1000


def test_a_version_runs_them_when_it_is_loaded(version, monkeypatch):
    ran = []
    predict = LoadedVersion.predict

    def spy(self, name, read_inputs):
        ran.append(name)
        return predict(self, name, read_inputs)

    monkeypatch.setattr(LoadedVersion, "predict", spy)
    LoadedVersion(version, 2**20).close()
    assert ran == ["segment", "segment_oblique", "serving_default"]


def test_a_damaged_file_is_told(version, tmp_path):
    folder = shutil.copytree(version, tmp_path / "1")
    (folder / warmup.FILE).write_bytes(b"\x00" * 40)
    with pytest.raises(InputError, match="cannot read the warm-up requests"):
        LoadedVersion(folder, 2**20)


def test_export_writes_them_where_the_extra_is_installed(
    version, tmp_path, command, monkeypatch, capsys
):
    command(export, model=version, output_dir=tmp_path / "liver")
    assert (tmp_path / "liver" / "1" / warmup.FILE).read_bytes() == (
        version / warmup.FILE
    ).read_bytes()
    for name in ("tl3d_keras.serving.warmup", "tl3d_keras.serving.protos"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("tl3d_keras.serving.warmup")
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    command(export, model=version, output_dir=tmp_path / "liver")
    assert "pip install 'tl3d-keras[serving]'" in capsys.readouterr().err
    assert (tmp_path / "liver" / "2" / "saved_model.pb").is_file()
    assert not (tmp_path / "liver" / "2" / warmup.FILE).exists()
