"""`python -m serving`: the server's command; serving.commands has the commands beside it."""

import os
import signal
import sys
from typing import NoReturn


def main() -> int:
    """Run the command that is named, or serve; returns the exit status."""
    # Until the supervisor handles signals, they end this process: by a handler, since the kernel drops signals without
    # one for process 1 of a container; and without an exception, which Python drops if an import is just ending.
    # Ignored signals stay ignored.
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _end)

    from serving.commands import COMMANDS, run_command
    from serving.settings import SettingsError
    from vaeport.errors import VaeportError

    try:
        if (name := next(iter(sys.argv[1:]), "")) not in COMMANDS:
            return _serve()
        for number, handler in before.items():
            signal.signal(number, handler)
        run_command(name, sys.argv[2:])
    except BrokenPipeError:  # the reader of the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again as it exits
        return 141  # the status that shells give for SIGPIPE
    except (SettingsError, VaeportError, OSError) as error:
        print(f"serving: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # of a command
        return 130
    return 0


def _end(number: int, _frame: object) -> NoReturn:
    os._exit(128 + number)


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
