"""The local server: each request gets the status it deserves, versions change under load."""

import itertools
import shutil
import threading
import time

import pytest
import serving_requests as requests
import stand_in

from tl3d_keras.errors import InputError
from tl3d_keras.serving import served_models
from tl3d_keras.serving.model_versions import ModelVersions
from tl3d_keras.serving.protos import get_model_status_pb2
from tl3d_keras.serving.server import serve
from tl3d_keras.serving.statuses import StatusError

LIMIT = 8 * 2**20
State = get_model_status_pb2.ModelVersionStatus


@pytest.fixture(scope="module")
def ports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    stand_in.save(folder, 1)
    with serve(served_models.single("m", str(folder)), max_bytes=LIMIT) as ports:
        yield ports


@pytest.mark.parametrize(
    ("message", "expected"), [c[1:] for c in requests.GRPC], ids=[c[0] for c in requests.GRPC]
)
def test_grpc_statuses(ports, message, expected):
    assert requests.send_grpc(ports.grpc)(message) == expected


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [c[1:] for c in requests.REST],
    ids=[c[0] for c in requests.REST],
)
def test_rest_statuses(ports, path, content, expected):
    status, answer = requests.send_rest(ports.rest, path, content)
    assert status == expected, answer
    assert ("error" in answer) == (status != 200)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"POST /v1/models/m:predict HTTP/1.1\r\nContent-Length: 2147483648\r\n\r\n{", b" 413 "),
        (b"POST /v1/models/m:predict HTTP/1.1\r\nContent-Length: 4000000\r\n\r\n{", b" 400 "),
        (b"POST /v1/models/m:predict HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b" 411 "),
        (
            b"POST /v1/models/m:predict HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
            b" 411 ",
        ),
        (b"POST /v1/models/m:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b" 411 "),
        (b"DELETE /v1/models/m HTTP/1.1\r\n\r\n", b" 501 "),
        (b"\x00\x01\x02\r\n\r\n", b"Bad request"),
        (b"GET /" + b"a" * 100_000, b""),
        (b"PO", b""),
    ],
)
def test_rest_bytes(ports, content, expected):
    assert expected in requests.send_bytes(ports.rest, content)
    assert requests.send_rest(ports.rest, "/v1/models/m", None)[0] == 200


def test_bytes_that_are_no_grpc(ports):
    requests.send_bytes(ports.grpc, b"\x00" * 1000)
    assert requests.send_grpc(ports.grpc)(requests.predict_request()) == "OK"


def test_status_and_metadata(ports):
    _, status = requests.send_rest(ports.rest, "/v1/models/m", None)
    assert status["model_version_status"] == [
        {
            "version": "1",
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        }
    ]
    _, metadata = requests.send_rest(ports.rest, "/v1/models/m/metadata", None)
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    dims = signatures["segment"]["inputs"]["image"]["tensor_shape"]["dim"]
    assert [dim["size"] for dim in dims] == ["-1", "-1", "-1", "1"]


def resident_mib():
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def mixed(ports, number):
    """Sends `number` requests, good and bad ones in turn, and checks each status."""
    send = requests.send_grpc(ports.grpc)
    kinds = [
        *(("grpc", *case) for case in requests.GRPC),
        *(("rest", *case) for case in requests.REST),
    ]
    for kind, name, *rest in itertools.islice(itertools.cycle(kinds), number):
        if kind == "grpc":
            assert send(rest[0]) == rest[1], name
        else:
            assert requests.send_rest(ports.rest, *rest[:2])[0] == rest[2], name


def test_mixed_requests_leave_the_memory_flat(ports):
    mixed(ports, 100)
    before = resident_mib()
    mixed(ports, 200)
    # The bodies sent meanwhile were 100 MiB.
    assert resident_mib() - before < 40


@pytest.mark.slow
def test_many_mixed_requests_leave_the_memory_flat(ports):
    mixed(ports, 500)
    before = resident_mib()
    mixed(ports, 5000)
    assert resident_mib() - before < 60


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_versions_change_under_load_without_a_failed_request(tmp_path):
    stand_in.save(tmp_path, 1)
    failures, seen, ended = [], set(), threading.Event()

    def ask(ports, kind):
        send = requests.send_grpc(ports.grpc)
        while not ended.is_set():
            if kind == "grpc":
                status = send(requests.predict_request())
            else:
                status, answer = requests.send_rest(ports.rest, requests.PREDICT, requests.inputs())
                seen.add(max(x for z in answer.get("outputs", [[[0]]]) for y in z for x in y))
            if status not in ("OK", 200):
                failures.append((kind, status))

    configs = served_models.single("m", str(tmp_path))
    with serve(configs, poll_seconds=0.05) as ports:
        threads = [threading.Thread(target=ask, args=(ports, kind)) for kind in ("grpc", "rest")]
        for thread in threads:
            thread.start()
        try:
            for version in (2, 3):
                stand_in.save(tmp_path, version)
                wait_for(lambda version=version: version in seen)
                shutil.rmtree(tmp_path / str(version - 1))
            stand_in.save(tmp_path, 4)
            (tmp_path / "4" / "saved_model.pb").write_bytes(b"damaged")
            time.sleep(0.3)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
    assert failures == [] and {1, 2, 3} <= seen


@pytest.fixture
def served(tmp_path):
    stand_in.save(tmp_path, 1)
    lines = []
    model = ModelVersions(served_models.single("m", str(tmp_path))[0], LIMIT, lines.append)
    model.refresh()
    yield model, tmp_path, lines
    model.close()


def states(model):
    return {status.version: status.state for status in model.statuses(None, None)}


def test_a_version_is_freed_by_its_last_request(served):
    model, folder, _ = served
    with model.version(None, None) as (number, loaded):
        stand_in.save(folder, 2)
        model.refresh()
        assert number == 1 and states(model) == {1: State.UNLOADING, 2: State.AVAILABLE}
        infos = loaded.signatures["serving_default"].inputs
        assert set(infos) == {"image"}
        assert loaded.predict("", lambda _: {"image": requests.IMAGE[None]})["probabilities"].size
        with model.version(None, None) as (newer, _):
            assert newer == 2
    assert states(model) == {1: State.END, 2: State.AVAILABLE}


def test_a_version_that_comes_back_before_its_last_request_is_answered(served):
    model, folder, _ = served

    def ask(loaded):
        return loaded.predict("", lambda _: {"image": requests.IMAGE[None]})

    with model.version(1, None) as (_, former):
        stand_in.save(folder, 2)
        model.refresh()
        shutil.rmtree(folder / "2")
        model.refresh()
        assert states(model) == {1: State.AVAILABLE, 2: State.END}
        ask(former)
    with pytest.raises(RuntimeError, match="closed Session"):
        ask(former)
    with model.version(1, None) as (_, again):
        stand_in.save(folder, 2)
        model.refresh()
        assert states(model) == {1: State.UNLOADING, 2: State.AVAILABLE}
        ask(again)
    assert states(model) == {1: State.END, 2: State.AVAILABLE}


def test_a_damaged_version_leaves_the_former_and_is_tried_again_when_it_changed(served):
    model, folder, lines = served
    path = stand_in.save(folder, 2) / "saved_model.pb"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    for _ in range(2):
        model.refresh()
    assert states(model) == {1: State.AVAILABLE, 2: State.END}
    assert sum("cannot load the version" in line for line in lines) == 1
    path.write_bytes(whole)
    model.refresh()
    assert states(model) == {1: State.END, 2: State.AVAILABLE}


def test_an_empty_folder_leaves_what_is_served(served):
    model, folder, _ = served
    shutil.rmtree(folder)
    model.refresh()
    assert states(model) == {1: State.AVAILABLE}


def test_policies_and_labels(tmp_path):
    for name in ("old", "007", "²"):
        (tmp_path / "models" / name).mkdir(parents=True)
    for version in (1, 2, 3):
        stand_in.save(tmp_path / "models", version)
    config = tmp_path / "models.config"
    config.write_text(
        f"""model_config_list {{
          config {{ name: "all" base_path: "{tmp_path}/models" model_version_policy {{ all {{}} }}
                    version_labels {{ key: "stable" value: 1 }} }}
          config {{ name: "two" base_path: "{tmp_path}/models"
                    model_version_policy {{ latest {{ num_versions: 2 }} }} }}
          config {{ name: "one" base_path: "{tmp_path}/models"
                    model_version_policy {{ specific {{ versions: 2 }} }} }}
        }}"""
    )
    with serve(served_models.read_config(config)) as ports:
        served = {
            name: [
                int(status["version"])
                for status in requests.send_rest(ports.rest, f"/v1/models/{name}", None)[1][
                    "model_version_status"
                ]
            ]
            for name in ("all", "two", "one")
        }
        assert served == {"all": [3, 2, 1], "two": [3, 2], "one": [2]}
        path = "/v1/models/all/labels/stable:predict"
        _, answer = requests.send_rest(ports.rest, path, requests.inputs())
        assert max(x for z in answer["outputs"] for y in z for x in y) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model_config_list {", "expected a ModelServerConfig in text form"),
        (b"\xff", "expected a ModelServerConfig in text form"),
        (b"", "expected a model_config_list"),
    ],
)
def test_config_files_that_are_none(tmp_path, content, message):
    path = tmp_path / "models.config"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        served_models.read_config(path)


def test_what_cannot_be_served_is_told(tmp_path):
    with pytest.raises(InputError, match="expected a folder with versions"):
        with serve(served_models.single("m", str(tmp_path))):
            pass
    (tmp_path / "1").mkdir()
    with pytest.raises(InputError, match="cannot load the version"):
        with serve(served_models.single("m", str(tmp_path))):
            pass


def test_a_port_that_is_taken_is_told(ports, tmp_path):
    stand_in.save(tmp_path, 1)
    for taken in ((ports.grpc, 0), (0, ports.rest)):
        with pytest.raises(InputError, match="cannot listen there"):
            with serve(served_models.single("m", str(tmp_path)), ports=type(ports)(*taken)):
                pass


def test_a_request_that_takes_too_long_is_ended(served):
    model, _, _ = served
    with model.version(None, None) as (_, loaded):
        with pytest.raises(StatusError, match="DEADLINE_EXCEEDED"):
            big = requests.np.ones((1, 64, 512, 512, 1), "float32")
            loaded.predict("", lambda _: {"image": big}, timeout=0.001)
