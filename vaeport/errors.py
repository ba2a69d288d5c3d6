"""Every error that vaeport raises on purpose.

    VaeportError
    ├── InvalidInputError        what the caller passed: dtype, shape, range, count (also a ValueError)
    ├── NotFoundError            no such model or version (also a LookupError)
    ├── DeviceError              the device asked for cannot compute here; says what is missing
    ├── PackageError             a package breaks a rule of its format; one subclass per rule, in vaeport.package
    ├── SelfTestError            this machine does not compute what a package's golden vectors say
    ├── SignatureError           a package is not signed by the required key
    └── ServerError              the call went to a server and did not succeed; `request_id` is in the server's log
        ├── OverloadedError          its queue is full; `retry_after` says when to come back
        ├── DeadlineExceededError    no answer in time (also a TimeoutError)
        ├── UnavailableError         not reachable, starting or draining (also a ConnectionError)
        ├── UnauthenticatedError     it does not know the caller: no token, or a wrong or expired one
        ├── PermissionDeniedError    it knows the caller, and does not allow the call (also a PermissionError)
        └── InternalError            a defect of the server; the text holds an id that is in its log

The same classes are raised in the server, in the client and in-process. None of them knows about gRPC: the server's
edge turns them into statuses (serving.edge.status), the client turns statuses into them (vaeport.statuses).
"""


class VaeportError(Exception):
    """The base of all errors."""


class InvalidInputError(VaeportError, ValueError):
    """The caller passed something that cannot be computed. The text says which field, what was expected, what came."""

    @classmethod
    def of(cls, field: str, *, expected: str, got: object) -> "InvalidInputError":
        """An error with the uniform text `field: expected ..., got ...`."""
        return cls(f"{field}: expected {expected}, got {got}")


class NotFoundError(VaeportError, LookupError):
    """No such model or version. The text lists those that exist."""


class DeviceError(VaeportError):
    """The device that was asked for cannot compute on this machine. The text says what is missing."""


class PackageError(VaeportError):
    """A package, or the folder that should be one, breaks a rule of the format."""


class SelfTestError(VaeportError):
    """This machine does not compute what the golden vectors of a package say, or the package has none."""


class SignatureError(VaeportError):
    """A package has no valid signature by the required key, or cannot be signed with the given one."""


class ServerError(VaeportError):
    """A server did not answer with a result, for a reason that has no class of its own.

    `request_id` is the call's id in the server's log, "" if it has none; the text ends with it.
    """

    request_id: str = ""

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text} (request {self.request_id})" if self.request_id else text


class OverloadedError(ServerError):
    """The server's queue is full. `retry_after` is the seconds to wait before the next try, if the server said."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceededError(ServerError, TimeoutError):
    """No answer within the deadline."""


class UnavailableError(ServerError, ConnectionError):
    """No server answers, or the server is starting or draining."""


class UnauthenticatedError(ServerError):
    """The server demands a known token or client certificate, and got none, or an unknown one."""


class PermissionDeniedError(ServerError, PermissionError):
    """The server knows the caller, and does not allow this call."""


class InternalError(ServerError):
    """A defect of the server. The text holds the id under which its log has the details."""


MAX_TEXT = 1000


def bounded(text: str) -> str:
    """A stranger's text for an error message: on one line, and cut if it is long.

    Unprintable characters are escaped as in Python's literals: they could control the terminal that shows the error.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[:MAX_TEXT])
    whole = len(text) <= MAX_TEXT and len(shown) <= MAX_TEXT
    return shown if whole else f"{shown[:MAX_TEXT]}... ({len(text)} characters)"
