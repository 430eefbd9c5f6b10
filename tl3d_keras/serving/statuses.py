"""The statuses that both APIs of TF Serving answer with, as gRPC codes."""

from grpc import StatusCode

# TF Serving's own table (ToHTTPStatusCode of its http_server.cc).
_HTTP_OF_CODE = {
    StatusCode.OK: 200,
    StatusCode.CANCELLED: 499,
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ABORTED: 409,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504,
}
# What HTTP servers and the proxies in front of them answer besides.
_CODE_OF_HTTP = {
    status: code for code, status in reversed(_HTTP_OF_CODE.items()) if code != StatusCode.OK
} | {
    405: StatusCode.UNIMPLEMENTED,
    408: StatusCode.DEADLINE_EXCEEDED,
    411: StatusCode.INVALID_ARGUMENT,
    413: StatusCode.RESOURCE_EXHAUSTED,
    502: StatusCode.UNAVAILABLE,
}
_BY_NUMBER = {code.value[0]: code for code in StatusCode}


class StatusError(Exception):
    """An answer other than OK.

    Attributes:
        code: the gRPC status.
        details: one line for a person.
    """

    def __init__(self, code: StatusCode, details: str) -> None:
        self.code = code
        self.details = " ".join(details.split())
        super().__init__(f"{code.name}: {self.details}")


def http_status(code: StatusCode) -> int:
    """The HTTP status that TF Serving's REST API gives for a gRPC code."""
    return _HTTP_OF_CODE.get(code, 500)


def code_of_http(status: int) -> StatusCode:
    """The gRPC code that says what an HTTP status says."""
    return _CODE_OF_HTTP.get(status, StatusCode.INTERNAL)


def code_of_number(number: int) -> StatusCode:
    """The gRPC code of TensorFlow's error number, which count alike."""
    return _BY_NUMBER.get(number, StatusCode.UNKNOWN)
