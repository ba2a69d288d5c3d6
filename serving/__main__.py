"""`python -m serving`: the command of the server; serving.commands has those beside it."""

import os
import sys

from serving.commands import COMMANDS, run_command
from serving.settings import Settings, SettingsError
from vaeport.errors import VaeportError


def main() -> int:
    """Run the command that is named, or serve; returns the exit status."""
    try:
        if (name := next(iter(sys.argv[1:]), "")) in COMMANDS:
            run_command(name, sys.argv[2:])
            return 0
        return _serve()
    except (SettingsError, VaeportError, OSError) as error:
        print(f"serving: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before the signals are handled: nothing has been served yet
        return 130


def _serve() -> int:
    import tyro

    from serving.logs import configure_logging, report_fatal
    from serving.supervisor import CrashLoopError, StartError, launch

    settings = tyro.cli(Settings, prog="python -m serving")
    configure_logging(settings.log_format)
    try:
        return launch(settings, os.environ)
    except (SettingsError, VaeportError, OSError, StartError, CrashLoopError) as error:
        report_fatal(error, settings.log_format)
        return 1


if __name__ == "__main__":
    sys.exit(main())
