"""Every error that vaeport raises on purpose.

    VaeportError
    ├── InvalidInputError        what the caller passed: dtype, shape, range, count (also a ValueError)
    ├── NotFoundError            no such model or version (also a LookupError)
    ├── DeviceError              the device asked for cannot compute here; says what is missing
    ├── PackageError             a package breaks a rule of its format; one subclass per rule, in vaeport.package
    ├── SelfTestError            this machine does not compute what a package's golden vectors say
    ├── SignatureError           a package is not signed by the key that is demanded
    └── ServerError              the call reached for a server and did not succeed there; `request_id` is in its log
        ├── OverloadedError          its queue is full; `retry_after` says when to come back
        ├── DeadlineExceededError    no answer in time (also a TimeoutError)
        ├── UnavailableError         not there, starting or draining (also a ConnectionError)
        ├── UnauthenticatedError     it does not know who is calling: no token, or a wrong or expired one
        ├── PermissionDeniedError    it knows, and does not allow this call (also a PermissionError)
        └── InternalError            a defect of the server; the text holds an id that is in its log

The same classes are raised in the server, in the client and in-process. None of them knows about gRPC: the server's
edge turns them into statuses (serving.edge.status), the client turns statuses into them (vaeport.statuses).
"""


class VaeportError(Exception):
    """Base of all."""


class InvalidInputError(VaeportError, ValueError):
    """The caller passed something that cannot be computed. The text names the field, what was expected, what came."""

    @classmethod
    def of(cls, field: str, *, expected: str, got: object) -> "InvalidInputError":
        """The uniform text: `field: expected ..., got ...`."""
        return cls(f"{field}: expected {expected}, got {got}")


class NotFoundError(VaeportError, LookupError):
    """No such model or version. The text names what there is."""


class DeviceError(VaeportError):
    """The device that was asked for cannot compute on this machine. The text says what is missing."""


class PackageError(VaeportError):
    """A package, or the folder that should be one, breaks a rule of the format."""


class SelfTestError(VaeportError):
    """This machine does not compute what the golden vectors of a package say, or the package has none."""


class SignatureError(VaeportError):
    """A package has no valid signature by the key that is demanded, or cannot be signed with the one given."""


class ServerError(VaeportError):
    """A server did not answer with a result, for a reason that has no class of its own.

    `request_id` is the name of the call in the server's log, "" if it has none; it is shown at the end of the text.
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
    """Nobody answers there, or the server is starting or draining."""


class UnauthenticatedError(ServerError):
    """The server demands a token or a client certificate that it knows, and got none, or another one."""


class PermissionDeniedError(ServerError, PermissionError):
    """The server knows who is calling, and does not let them make this call."""


class InternalError(ServerError):
    """A defect of the server. The text holds the id under which its log has the details."""


MAX_TEXT = 1000


def bounded(text: str) -> str:
    """A text that quotes what a stranger wrote: the beginning, if it is long, and on one line.

    What cannot be printed is escaped as in Python's literals: it would rule the terminal that shows the error.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[:MAX_TEXT])
    whole = len(text) <= MAX_TEXT and len(shown) <= MAX_TEXT
    return shown if whole else f"{shown[:MAX_TEXT]}... ({len(text)} characters)"
