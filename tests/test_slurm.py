"""The workers of a cluster from SLURM's variables, as srun sets them."""

import re

import pytest
import tensorflow as tf

from tl3d_keras import devices, slurm
from tl3d_keras.errors import InputError

# Two tasks on one host, of which this is the second.
STEP = {
    "SLURM_PROCID": "1",
    "SLURM_STEP_NODELIST": "127.0.0.1",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_NODEID": "0",
    "SLURM_JOB_ID": "15007",
}


@pytest.mark.parametrize(
    ("nodes", "counts", "rank", "hosts"),
    [
        ("127.0.0.1", "2", 1, ["127.0.0.1:15007", "127.0.0.1:15008"]),
        ("n[9-11]", "1(x3)", 0, ["n9:15007", "n10:15007", "n11:15007"]),
        ("a[08-09,12],b-c.de", "1(x3),2", 4, ["a08", "a09", "a12", "b-c.de", "b-c.de:15008"]),
        ("n1,n2", "2,1", 2, ["n1", "n1:15008", "n2"]),
    ],
)
def test_addresses(nodes, counts, rank, hosts):
    step = STEP | {
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_STEP_TASKS_PER_NODE": counts,
        "SLURM_PROCID": str(rank),
    }
    del step["SLURM_NODEID"]
    expected = [host if ":" in host else f"{host}:15007" for host in hosts]
    assert slurm.step_workers(step) == (expected, rank)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SLURM_STEP_NODELIST": None}, "expected SLURM_STEP_NODELIST as srun sets it, found none"),
        ({"SLURM_STEP_NODELIST": "n[1-"}, "expected SLURM_STEP_NODELIST as srun sets it, found 'n"),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(y3)"}, "expected SLURM_STEP_TASKS_PER_NODE as srun"),
        ({"SLURM_PROCID": "2"}, "found rank 2 of [2] tasks on ['127.0.0.1']"),
        (
            {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
            | {"SLURM_NODEID": "1"},
            "(srun --distribution=block), found rank 1 on n2",
        ),
    ],
)
def test_what_is_no_step(changes, message):
    step = {name: value for name, value in (STEP | changes).items() if value is not None}
    with pytest.raises(InputError, match=re.escape(message)):
        slurm.step_workers(step)


def test_the_strategy_gets_the_workers(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setattr(devices, "keras_version", lambda: "2.15.0")
    # The strategy itself would wait for the other worker.
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", lambda resolver: resolver)
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    resolver = devices.choose_strategy.__wrapped__("workers")
    assert resolver.cluster_spec().as_dict() == {"worker": ["127.0.0.1:15007", "127.0.0.1:15008"]}
    assert (resolver.task_type, resolver.task_id) == ("worker", 1)
    assert resolver.num_accelerators() == {"GPU": len(tf.config.list_physical_devices("GPU"))}
