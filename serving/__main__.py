"""`python -m serving`: the command of the server."""

import sys

from serving.launcher import WorkerDiedError, launch
from serving.logs import configure_logging
from serving.settings import Settings, SettingsError
from vaeport.errors import VaeportError


def main() -> int:
    """Parse the settings, serve, and return the exit status."""
    import tyro

    settings = tyro.cli(Settings, prog="python -m serving")
    configure_logging()
    try:
        launch(settings)
    except (SettingsError, VaeportError, WorkerDiedError) as error:
        print(f"serving: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before the signals are handled: nothing has been served yet
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
