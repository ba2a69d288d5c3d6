"""Checks before anything starts: nothing is open that should not be, and every file can be used."""

import logging
import resource
from pathlib import Path

from serving.security.certificates import read_identity
from serving.security.listen import UNIX, check_exposure, what_is_open
from serving.security.tokens import read_tokens
from serving.security.unix import check_path
from serving.settings import Settings

log = logging.getLogger(__name__)


def check_start(settings: Settings) -> None:
    """Check addresses, certificates and tokens, and log what is open to others.

    Raises:
        SettingsError: plain text beyond this machine, a file that cannot be used, or a socket that is in use.
    """
    check_exposure(settings)
    if settings.tls_cert and settings.tls_key:
        read_identity(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    if settings.tokens:
        read_tokens(settings.tokens)
    if settings.listen:
        check_path(Path(settings.listen.removeprefix(UNIX)))
    for line in what_is_open(settings):
        log.warning(line)


def raise_file_limit() -> None:
    """Raise the limit of open files as far as allowed: a connection is one, and systemd starts with 1024 of 524288.

    Workers inherit it.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
