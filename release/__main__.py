"""`python -m release dist`: what is published, made and checked. `python -m release keep`: a version's contract."""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from release import artifacts, context, contract, environment
from release.commands import ReleaseError
from vaeport import __version__


def main() -> int:
    """Run one command; an error is a message and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m release", description=__doc__)
    commands = parser.add_subparsers(required=True)
    dist_parser = commands.add_parser("dist", help="the wheel, the sdist and the container's context, checked")
    dist_parser.add_argument("--out", type=Path, default=Path("dist"), help="folder; what is in it goes (dist)")
    dist_parser.set_defaults(command=lambda options: dist(options.out))
    keep_parser = commands.add_parser("keep", help="release/protos/<minor>/ becomes what protos/ is today")
    keep_parser.set_defaults(command=lambda _: print(contract.keep(__version__)))
    options = parser.parse_args()
    try:
        options.command(options)
    except ReleaseError as error:
        print(f"release: error: {error}", file=sys.stderr)
        return 1
    return 0


def dist(out: Path) -> None:
    """Make and check everything in a folder beside `out`, which takes its place at the end."""
    for promised in sorted(contract.KEPT.iterdir()):
        contract.check_unbroken(promised)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".dist-") as temporary:
        made = Path(temporary) / "dist"
        wheel, _ = artifacts.build(contract.ROOT, made)
        artifacts.check_wheel(wheel, contract.ROOT)
        clean = environment.Environment.create(Path(temporary) / "env", wheel, contract.ROOT / "constraints.txt")
        seconds = environment.check(clean)
        print(f"{wheel.name} installs alone; import vaeport takes {seconds:.2f} s", file=sys.stderr)
        context.write_context(contract.ROOT, made / f"vaeport-{__version__}-context.tar.gz")
        if out.exists():
            shutil.rmtree(out)
        made.rename(out)
    for path in sorted(out.iterdir()):
        print(path)


if __name__ == "__main__":
    sys.exit(main())
