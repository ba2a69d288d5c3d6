"""`python -m serving`: the command of the server; serving.commands has those beside it."""

import os
import signal
import sys


def main() -> int:
    """Run the command that is named, or serve; returns the exit status."""
    # Python raises KeyboardInterrupt wherever it is, and drops it in what an import does at its end. So SIGINT ends
    # this process at once, as SIGTERM does, until something else handles it; unless somebody wants it ignored.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    from serving.commands import COMMANDS, run_command
    from serving.settings import SettingsError
    from vaeport.errors import VaeportError

    try:
        if (name := next(iter(sys.argv[1:]), "")) not in COMMANDS:
            return _serve()
        if interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run_command(name, sys.argv[2:])
    except (SettingsError, VaeportError, OSError) as error:
        print(f"serving: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # of a command
        return 130
    return 0


def _serve() -> int:
    import tyro

    from serving.logs import configure_logging, report_fatal
    from serving.settings import Settings, SettingsError
    from serving.supervisor import CrashLoopError, StartError, launch
    from vaeport.errors import VaeportError

    settings = tyro.cli(Settings, prog="python -m serving")
    configure_logging(settings.log_format)
    try:
        return launch(settings, os.environ)
    except (SettingsError, VaeportError, OSError, StartError, CrashLoopError) as error:
        report_fatal(error, settings.log_format)
        return 1


if __name__ == "__main__":
    sys.exit(main())
