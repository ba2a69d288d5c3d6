"""`vaeport doctor`; its checks are in vaeport/doctor.py."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vaeport.commands import flags
from vaeport.commands.source import locks_of

if TYPE_CHECKING:
    from vaeport.commands.flags import Commands


def doctor(options: argparse.Namespace) -> int:
    """Check what is installed, the device, limits, a package and a server; exit 1 if something fails."""
    from vaeport.doctor import examine
    from vaeport.findings import as_json, as_table, failed

    tls, token = locks_of(options)
    findings = list(examine(options.package, options.server, tls, token, options.precision))
    print(as_json(findings) if options.json else as_table(findings))
    return int(failed(findings))


def add(commands: "Commands") -> None:
    """The flags."""
    examples = ["vaeport doctor", "vaeport doctor --package models/digits/1 --server localhost:50051"]
    command = flags.add_command(commands, doctor, "what works here, and what does not", examples, [flags.credentials()])
    command.add_argument("--package", type=Path, metavar="PATH", help="a package to self-test, too, on the CPU")
    command.add_argument("--precision", default="fp32", metavar="NAME", help="of its graphs (%(default)s)")
    command.add_argument("--server", metavar="ADDRESS", help="a server to ask, too")
    command.add_argument("--json", action="store_true", help="for machines")
