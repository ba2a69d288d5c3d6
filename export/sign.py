"""`python -m export sign` and `verify-signature`: the signature of a package, by OpenSSF Model Signing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from export.package import staging
from vaeport.errors import SignatureError
from vaeport.package import open_package
from vaeport.signing import (
    KEY_KIND,
    check_signature,
    check_statement,
    hash_every_file,
    import_model_signing,
    one_line,
    signature_path,
)


@dataclass(frozen=True, slots=True)
class SignOptions:
    """Sign a package, and print the path of the signature: beside the package, PACKAGE.sig. One that is there already
    is replaced. Nothing leaves this machine."""

    package: Annotated[Path, tyro.conf.Positional]
    """The package, MODELS/<name>/<version>."""

    private_key: Path
    """An elliptic-curve key in PEM, on P-256, P-384 or P-521, without a password."""


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """See that a package is, file by file, what the holder of a key has signed. Exit status 1 if it is not."""

    package: Annotated[Path, tyro.conf.Positional]
    """The package, MODELS/<name>/<version>."""

    public_key: Path
    """The public half of the key, in PEM."""


def sign_command(arguments: list[str]) -> None:
    """Parse, sign and print; see `sign` for the errors."""
    options = tyro.cli(SignOptions, prog="python -m export sign", args=arguments)
    print(sign(options.package, options.private_key))


def verify_signature_command(arguments: list[str]) -> None:
    """Parse, verify and print.

    Raises:
        PackageError: the package breaks a rule of the format.
        SignatureError: it is not what the holder of the key has signed.
    """
    options = tyro.cli(VerifyOptions, prog="python -m export verify-signature", args=arguments)
    package = open_package(options.package)
    check_signature(package, options.public_key)
    what = f"{package.manifest.name} version {package.manifest.version}, {package.digest}"
    print(f"{options.package}: {what}, is signed by {options.public_key}")


def sign(path: Path, private_key: Path) -> Path:
    """Sign a package that is whole.

    Returns:
        The path of the signature.

    Raises:
        PackageError: the folder breaks a rule of the format: a broken package is not worth a signature.
        SignatureError: the key cannot sign, or somebody changed the package meanwhile.
    """
    package, signer = open_package(path), _signer(private_key)
    target = signature_path(package.path)
    with staging(target.parent) as staged:
        draft = staged / target.name
        try:
            signer.sign(package.path.resolve(), draft)
        except (OSError, ValueError) as error:
            raise SignatureError(f"{path}: cannot be signed: {one_line(error)}") from error
        check_statement(package, target, draft.read_bytes())  # in case it has changed since it was opened
        draft.replace(target)
    return target


def _signer(private_key: Path) -> Any:
    config = import_model_signing().signing.Config().set_hashing_config(hash_every_file())
    try:
        return config.use_elliptic_key_signer(private_key=private_key)
    except Exception as error:  # of cryptography, or of another kind of key that lacks what a curve has
        raise SignatureError(f"{private_key}: expected a private {KEY_KIND}: {one_line(error)}") from error
