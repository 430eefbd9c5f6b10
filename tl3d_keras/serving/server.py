"""The local server: TF Serving's two APIs over SavedModels, for tests and laptops."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from tl3d_keras.serving import grpc_service, rest_service
from tl3d_keras.serving.served_models import ServedModels

# Of a request that is still computed when the server ends, in seconds.
_GRACE = 10


class Ports(NamedTuple):
    """Where a server listens."""

    grpc: int
    rest: int


@contextmanager
def serve(
    configs: Sequence[Any],
    host: str = "127.0.0.1",
    ports: Ports = Ports(0, 0),  # noqa: B008
    max_bytes: int = 2**30,
    poll_seconds: float = 1.0,
    tell: Callable[[str], None] = lambda line: None,
) -> Iterator[Ports]:
    """Serves models while the block runs; yields the ports.

    It is no replacement for TF Serving: no batching, no TLS, no monitoring, Python in each request.

    Args:
        configs: `ModelConfig`s, see `served_models.single` and `served_models.read_config`.
        host: the address to listen on.
        ports: to listen on; 0 takes a free one.
        max_bytes: the most that a request may take.
        poll_seconds: between two looks for new versions.
        tell: is given a line for each change.

    Raises:
        InputError: a model has no version that can be served, or a port is taken.
    """
    models = ServedModels(configs, max_bytes, poll_seconds, tell)
    try:
        grpc_server, grpc_port = grpc_service.start(models, host, ports.grpc)
        try:
            rest_server, rest_port = rest_service.start(models, host, ports.rest)
            try:
                yield Ports(grpc_port, rest_port)
            finally:
                rest_server.shutdown()
                rest_server.server_close()
        finally:
            grpc_server.stop(_GRACE).wait()
    finally:
        models.close()
