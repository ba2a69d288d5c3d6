"""Signatures of packages, as OpenSSF Model Signing makes them: checked with a public key, offline.

A signature lies beside the package, `models/<name>/<version>.sig`: a Sigstore bundle with a statement that has the
sha256 of every file, the manifest's included, signed with an elliptic-curve key. `python -m export sign` makes it, and
so does the command of the library that reads it here (https://github.com/sigstore/model-transparency). That library
comes with `vaeport[sign]` and is imported when a signature is first checked.
"""

import contextlib
import json
import os
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaeport.errors import SignatureError
from vaeport.manifest import MANIFEST_NAME
from vaeport.package import Package

if TYPE_CHECKING:
    from collections.abc import Iterator

    from model_signing import hashing

SIGNATURE_MAX_BYTES = 1 << 22  # thousands of files fit
KEY_KIND = "elliptic-curve key in PEM, on P-256, P-384 or P-521"


def signature_path(package: Path) -> Path:
    """Where the signature of the package in folder `package` lies: beside it, never inside."""
    folder = Path(os.path.normpath(package.absolute()))  # beside a link, if that is what leads to the package
    return folder.with_name(f"{folder.name}.sig")


def check_signature(package: Package, public_key: Path) -> None:
    """Check that the holder of a key signed exactly this package.

    Two things are checked: the statement has the digests of the opened package, its manifest's among them, so that
    everything loaded afterwards is compared with what was signed, even if files change meanwhile; and the statement is
    signed by the key, and true of the folder as it is now.

    Args:
        package: an opened package.
        public_key: a file with the key: KEY_KIND.

    Raises:
        SignatureError: there is no signature, it is not by that key, or a file is missing, extra or different.
    """
    model_signing, path = import_model_signing(), signature_path(package.path)
    data = _read(path, public_key)
    check_statement(package, path, data)
    verifier = model_signing.verifying.Config().set_hashing_config(hash_every_file())
    try:
        verifier.use_elliptic_key_verifier(public_key=public_key)
    except Exception as error:  # an error of cryptography, or another kind of key, without a curve
        raise SignatureError(f"{public_key}: expected a public {KEY_KIND}: {one_line(error)}") from error
    try:
        # The library warns with print, but standard output is for a command's answer.
        with _copy(data) as copy, contextlib.redirect_stdout(sys.stderr):
            verifier.verify(package.path.resolve(), copy)  # it refuses links, even one that leads here
    except Exception as error:  # any error: what cannot be checked counts as not signed
        why = f"{path}: expected a signature of {package.path} by {public_key}: {one_line(error)}"
        raise SignatureError(why) from error


def check_statement(package: Package, path: Path, signature: bytes) -> None:
    """Check that a signature's statement matches an opened package. This does not check who signed it.

    Args:
        package: an opened package.
        path: the path of the signature, for the error.
        signature: its bytes.

    Raises:
        SignatureError: these bytes are not a signature, or state other files or digests; the text names the files.
    """
    try:
        signed = _signed_digests(signature)
    except Exception as error:  # a stranger's bytes
        raise SignatureError(f"{path}: expected a signature, got no statement: {one_line(error)}") from error
    here = {entry.path: f"sha256:{entry.sha256}" for entry in package.manifest.files}
    here[MANIFEST_NAME] = package.digest
    differences = {
        "extra": here.keys() - signed.keys(),
        "missing": signed.keys() - here.keys(),
        "changed": {name for name in here.keys() & signed.keys() if here[name] != signed[name]},
    }
    if found := [f"{what}: {', '.join(sorted(names))}" for what, names in differences.items() if names]:
        told = textwrap.shorten("; ".join(found), 400)  # names that a stranger may have chosen
        raise SignatureError(f"{path}: {package.path} is not what was signed; {told}")


def _signed_digests(signature: bytes) -> dict[str, str]:
    """Each file's digest in a signature, as in `Package.digest`. Raises whatever the parsers do."""
    from sigstore_models.bundle.v1 import Bundle  # what model_signing reads it with, so that both see the same

    envelope = Bundle.from_dict(json.loads(signature)).dsse_envelope
    if envelope is None:
        raise ValueError("no envelope")
    resources = json.loads(envelope.payload)["predicate"]["resources"]
    return {entry["name"]: f"{entry['algorithm']}:{entry['digest']}" for entry in resources}


def hash_every_file() -> "hashing.Config":
    """The library's settings: the sha256 of each file, with none left out, links refused."""
    config = import_model_signing().hashing.Config()
    return config.set_ignored_paths(paths=[], ignore_git_paths=False)  # type: ignore[no-any-return]


def import_model_signing() -> Any:
    """The library, or a SignatureError that says how to get it."""
    try:
        import model_signing
    except ImportError as error:
        raise SignatureError(f"signatures need model-signing: pip install 'vaeport[sign]': {error}") from error
    return model_signing


def one_line(error: Exception) -> str:
    """The text of a library's error, as one readable line."""
    return textwrap.shorten(str(error) or type(error).__name__, 400)


def _read(path: Path, public_key: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(SIGNATURE_MAX_BYTES + 1)
    except OSError as error:
        raise SignatureError(f"{path}: expected a signature by {public_key}: {error.strerror}") from error
    if len(data) > SIGNATURE_MAX_BYTES:
        raise SignatureError(f"{path}: expected a signature of at most {SIGNATURE_MAX_BYTES} bytes")
    return data


@contextlib.contextmanager
def _copy(data: bytes) -> "Iterator[Path]":
    """A private file with these bytes: the one beside the package may change while it is read."""
    with tempfile.NamedTemporaryFile(suffix=".sig") as file:
        file.write(data)
        file.flush()
        yield Path(file.name)
