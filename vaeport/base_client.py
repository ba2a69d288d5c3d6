"""The base of both clients: their arguments, checked once, for the calls and for the channel."""

import math
from collections.abc import Sequence

from vaeport import addresses
from vaeport.calls import Calls
from vaeport.channel import credentials_of, options_of
from vaeport.credentials import TLS, check_token
from vaeport.errors import InvalidInputError
from vaeport.retries import DEFAULT_CONNECT_TIMEOUT_SECONDS, DEFAULT_RETRIES, Retries

DEFAULT_TIMEOUT_SECONDS = 30.0
IN_FLIGHT = 4  # requests of one call that run at a time


class BaseClient:
    """The arguments of `Client` and `AsyncClient`, which document them."""

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        model: str = "",
        version: str = "",
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        connect_timeout: float = DEFAULT_CONNECT_TIMEOUT_SECONDS,
        retries: int = DEFAULT_RETRIES,
        tls: bool | TLS = False,
        token: str = "",
        allow_plaintext_token: bool = False,
    ) -> None:
        for name, seconds in (("timeout", timeout), ("connect_timeout", connect_timeout)):
            if not 0 < seconds < math.inf:
                raise InvalidInputError.of(name, expected="a positive number of seconds", got=seconds)
        target = addresses.parse(address)
        encryption = TLS() if tls is True else tls or None
        check_token(token, target, encryption, plain=allow_plaintext_token)
        self.address = target.label
        self._calls = Calls(
            target.label,
            model=model,
            version=version,
            timeout=timeout,
            retries=Retries(retries, connect_timeout),
            authorization=(("authorization", f"Bearer {token}"),) if token else (),
        )
        self._uri = target.uri
        self._options = options_of(target, encryption, connect_timeout)
        self._credentials = None if encryption is None else credentials_of(encryption)
        self._connect()

    def _connect(self) -> None:
        """Make the channel, or prepare to make it."""
        raise NotImplementedError
