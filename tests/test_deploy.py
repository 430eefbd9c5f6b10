"""The files of deploy/ parse, fit each other, and work with the local server."""

import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
import serving_requests as requests
import stand_in
import yaml
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,  # noqa: F401, the pool needs its messages
)

from experiments import serve as serve_command
from tl3d_keras.errors import InputError
from tl3d_keras.serving import served_models

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
# Of tensorflow_model_server, whose source is model_servers/main.cc.
FLAGS = {
    "model_config_file": str,
    "model_config_file_poll_wait_seconds": int,
    "allow_version_labels_for_unavailable_models": "true false".split().index,
    "file_system_poll_wait_seconds": int,
    "rest_api_timeout_in_ms": int,
    "enable_batching": "true false".split().index,
    "batching_parameters_file": str,
    "enable_model_warmup": "true false".split().index,
}


def flags(service):
    return dict(flag.removeprefix("--").split("=", 1) for flag in SERVICES[service]["command"])


@pytest.mark.parametrize("service", SERVICES)
def test_flags_and_mounts_fit(service):
    content = SERVICES[service]
    for name, value in flags(service).items():
        FLAGS[name](value)
    mounts = {}
    for volume in content["volumes"]:
        source, target, mode = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")
        assert mode == "ro"
        mounts[target] = source
    files = {name: value for name, value in flags(service).items() if name.endswith("_file")}
    for path in [*files.values(), content["healthcheck"]["test"][-1]]:
        assert (DEPLOY / mounts[path]).is_file()
    for config in served_models.read_config(DEPLOY / "models.config"):
        assert any(config.base_path.startswith(f"{target}/") for target in mounts)
        assert content["environment"]["HEALTH_MODEL"].endswith(f":-{config.name}}}")
    assert all(port.startswith("127.0.0.1:") for port in content["ports"])
    assert re.search(r"tensorflow/serving:\d+\.\d+\.\d+\}$", content["image"])


def test_batching_is_kept_from_the_segment_signature():
    assert "enable_batching" not in flags("serving")
    # Its requests go to `segment` too, which batching refuses.
    assert flags("patches")["enable_model_warmup"] == "false"
    ports = [port for service in SERVICES.values() for port in service["ports"]]
    assert len({port.split(":")[1] for port in ports}) == len(ports)


def batching_parameters():
    """TF Serving's message of session_bundle_config.proto, which its Python package leaves out."""
    file = descriptor_pb2.FileDescriptorProto(
        name="batching.proto",
        package="t",
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    message = file.message_type.add(name="BatchingParameters")
    names = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    for number, name in zip((1, 2, 3, 4), names, strict=True):
        message.field.add(
            name=name,
            number=number,
            label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
            type=descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE,
            type_name=".google.protobuf.Int64Value",
        )
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.BatchingParameters"))()


def test_batching_config():
    parsed = text_format.Parse((DEPLOY / "batching.config").read_text(), batching_parameters())
    assert 1 < parsed.max_batch_size.value <= parsed.max_enqueued_batches.value
    assert parsed.num_batch_threads.value > 0


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_the_local_server_takes_the_model_config(tmp_path, command, capsys):
    """And the container's health check tells whether the model is there."""
    (tmp_path / "liver").mkdir()
    for version in (1, 2):
        stand_in.save(tmp_path / "liver", version)
    config = tmp_path / "models.config"
    config.write_text((DEPLOY / "models.config").read_text().replace("/models", str(tmp_path)))
    port, found = free_port(), {}
    former = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def health(model):
        environment = os.environ | {"HEALTH_PORT": str(port), "HEALTH_MODEL": model}
        script = ["bash", str(DEPLOY / "healthcheck.sh")]
        return subprocess.run(script, env=environment, capture_output=True, timeout=20).returncode

    def visit():
        try:
            end = time.monotonic() + 30
            while health("liver") and time.monotonic() < end:
                time.sleep(0.05)
            found["liver"], found["other"] = health("liver"), health("other")
            for label, path in (("stable", "/labels/stable"), ("newest", "")):
                path = f"/v1/models/liver{path}:predict"
                answer = requests.send_rest(port, path, requests.inputs())[1]
                found[label] = max(x for z in answer["outputs"] for y in z for x in y)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    assert health("liver") != 0
    visitor = threading.Thread(target=visit)
    visitor.start()
    try:
        command(serve_command, model_config_file=config, port=0, rest_api_port=port)
    finally:
        visitor.join()
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), former, strict=True):
            signal.signal(number, handler)
    assert found == {"liver": 0, "other": 1, "stable": 1, "newest": 2}
    assert f"REST on 127.0.0.1:{port}" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [{}, {"model_base_path": "a", "model_config_file": "b"}])
def test_flags_of_the_local_server(command, flags):
    with pytest.raises(InputError, match="either --model_base_path or --model_config_file"):
        command(serve_command, **flags)
