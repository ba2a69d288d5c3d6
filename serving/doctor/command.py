"""The command, and the list of its checks: the library's, then those of a server with these settings."""

import datetime
import os
import sys
from collections.abc import Iterator
from typing import Annotated

import tyro

from serving.doctor import listening, machine
from serving.doctor.models import examine_models, memory_needed
from serving.settings import Settings, SettingsError
from serving.supervisor.launch import with_workers
from vaeport import doctor as general
from vaeport.findings import Finding, as_json, as_table, fail, failed, ok
from vaeport.machine import affinity, read_limits, total_memory, usable_cores


def doctor(settings: Annotated[Settings, tyro.conf.OmitArgPrefixes], json: bool = False) -> None:
    """Check what a server with these settings needs, without starting one. Exits 1 if something would fail.

    Args:
        settings: the server's settings.
        json: for machines: an object with `ok` and `findings`, each with name, level, text and advice.
    """
    settings, _ = with_workers(settings, os.environ)
    findings = list(examine(settings))
    print(as_json(findings) if json else as_table(findings))
    sys.exit(failed(findings))


def examine(settings: Settings) -> Iterator[Finding]:
    """All findings, one at a time, since some take seconds.

    Args:
        settings: the server's settings; `workers` is the actual number.
    """
    installed, limits, workers = general.installed_distributions(), read_limits(), settings.workers
    threads = workers * (settings.threads or max(1, usable_cores() // workers))
    yield general.versions(installed)
    yield general.runtime_builds(installed, needed=True)
    yield general.device(settings.device)
    yield check_settings(settings)
    yield general.cores(limits, affinity(), threads)
    yield general.memory(limits, total_memory(), memory_needed(settings.models, workers))
    yield machine.file_descriptors(machine.descriptor_limit())
    yield machine.clock(synchronised=machine.clock_is_synchronised())
    yield from examine_listening(settings)
    yield from examine_models(settings)


def check_settings(settings: Settings) -> Finding:
    """Whether the server itself would refuse the settings."""
    try:
        settings.check()
    except SettingsError as error:
        return fail("settings", str(error), "python -m serving --help")
    return ok("settings", "none contradicts another")


def examine_listening(settings: Settings) -> Iterator[Finding]:
    """Findings on the addresses, and on what guards them."""
    now = datetime.datetime.now(datetime.UTC)
    if settings.listen:
        yield listening.unix_socket(settings.listen)
    else:
        yield listening.port("port", settings.host, settings.port)
    if settings.http_port is not None:
        yield listening.port("http port", settings.http_host, settings.http_port)
    yield listening.exposure(settings)
    if settings.tls_cert and settings.tls_key:
        yield listening.certificate(settings.tls_cert, settings.tls_key, settings.host, now)
    if settings.tls_client_ca:
        yield listening.authority(settings.tls_client_ca, now)
    if settings.tokens:
        yield listening.tokens(settings.tokens, now)
