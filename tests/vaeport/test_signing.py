"""A package is what the holder of a key has signed, file by file, or it is refused with a line that says why."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from export.sign import sign
from tests.export.test_verify import edit, edit_manifest, nudge_a_weight
from tests.support import write_keys
from vaeport.errors import SignatureError
from vaeport.package import open_package
from vaeport.signing import SIGNATURE_MAX_BYTES, check_signature, signature_path

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes


@pytest.fixture
def signed(package: Path, keys: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the package, to change, with a signature beside it."""
    copy = Path(shutil.copytree(package, tmp_path / "digits" / "1"))
    assert sign(copy, keys[0]) == tmp_path / "digits" / "1.sig"
    return copy


def test_what_was_signed_passes(signed: Path, keys: tuple[Path, Path]) -> None:
    check_signature(open_package(signed), keys[1])


def test_a_signature_lies_beside_whatever_leads_to_the_package(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(signed)
    for way in (Path(), Path("../1"), Path("torchscript/..")):
        assert signature_path(way) == signature_path(signed) == tmp_path / "digits" / "1.sig"
    linked = tmp_path / "linked" / "digits" / "1"
    linked.parent.mkdir(parents=True)
    linked.symlink_to(signed)
    shutil.copy(signature_path(signed), signature_path(linked))
    signature_path(signed).unlink()
    check_signature(open_package(linked), keys[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "more.txt").write_text("x"), r"Extra files found in model '1': more\.txt"),
        (lambda folder: (folder / ".gitignore").write_text("x"), r"Extra files found in model '1': \.gitignore"),
        (lambda folder: (folder / "README.md").unlink(), r"Missing files in model '1': README\.md"),
        (lambda folder: (folder / "README.md").write_text("x"), r"Hash mismatch for .*README\.md"),
        (lambda folder: (folder / "link").symlink_to("README.md"), "link"),
    ],
    ids=["extra", "extra git file", "missing", "changed", "link"],
)
def test_a_change_after_the_package_was_opened_is_seen(
    signed: Path, keys: tuple[Path, Path], change: Callable[[Path], object], message: str
) -> None:
    opened = open_package(signed)
    change(signed)
    with pytest.raises(SignatureError, match=message):
        check_signature(opened, keys[1])


def test_a_graph_changed_with_all_its_digests_is_seen(signed: Path, keys: tuple[Path, Path]) -> None:
    edit(signed, "decoder.onnx", nudge_a_weight)
    with pytest.raises(SignatureError, match=r"1 is not what was signed; changed: .*decoder\.onnx, manifest\.json$"):
        check_signature(open_package(signed), keys[1])


def test_files_added_and_removed_with_all_their_digests_are_seen(signed: Path, keys: tuple[Path, Path]) -> None:
    (signed / "README.md").rename(signed / "NOTES.md")
    edit_manifest(signed, lambda m: next(e for e in m["files"] if e["path"] == "README.md").update(path="NOTES.md"))
    expected = r"not what was signed; extra: NOTES\.md; missing: README\.md; changed: manifest\.json$"
    with pytest.raises(SignatureError, match=expected):
        check_signature(open_package(signed), keys[1])


def test_a_package_swapped_for_the_signed_one_while_it_is_checked_is_seen(
    package: Path, signed: Path, keys: tuple[Path, Path]
) -> None:
    """Somebody opens their own package to us, and puts the signed one in its place before the signature is checked."""
    edit(signed, "decoder.onnx", nudge_a_weight)
    opened = open_package(signed)
    shutil.copytree(package, signed, dirs_exist_ok=True)
    with pytest.raises(SignatureError, match=r"changed: .*decoder\.onnx, manifest\.json$"):
        check_signature(opened, keys[1])


def test_the_key_of_somebody_else_is_refused(signed: Path, tmp_path: Path) -> None:
    _, stranger = write_keys(tmp_path / "stranger")
    with pytest.raises(SignatureError, match=r"1\.sig: expected a signature of .*/1 by .*stranger/key\.pub: Key mis"):
        check_signature(open_package(signed), stranger)


def test_a_stranger_who_claims_our_key_is_refused(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """The signature names its key by a hint; the curve, not the hint, has to agree."""
    ours = open_package(signed)
    hint = (signature_path(signed)).read_text().split('"hint":"')[1].split('"')[0]
    stranger, _ = write_keys(tmp_path / "stranger")
    forged = sign(signed, stranger)
    theirs = forged.read_text().split('"hint":"')[1].split('"')[0]
    forged.write_text(forged.read_text().replace(theirs, hint))
    with pytest.raises(SignatureError, match="InvalidSignature"):
        check_signature(ours, keys[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"1\.sig: expected a signature by .*key\.pub: No such file"),
        (b"", "got no statement"),
        (b"\xff", "got no statement"),
        (b"[]", "got no statement"),
        (b"{}", "got no statement"),
        (
            b'{"mediaType": "x", "verificationMaterial": {}, "dsseEnvelope": {}}',
            "got no statement",
        ),
        (b" " * (SIGNATURE_MAX_BYTES + 1), f"at most {SIGNATURE_MAX_BYTES} bytes"),
    ],
    ids=["none", "empty", "no text", "a list", "an object", "no envelope", "too large"],
)
def test_what_is_no_signature_is_refused(
    signed: Path, keys: tuple[Path, Path], content: bytes | None, message: str
) -> None:
    signature_path(signed).unlink()
    if content is not None:
        signature_path(signed).write_bytes(content)
    with pytest.raises(SignatureError, match=message) as caught:
        check_signature(open_package(signed), keys[1])
    assert "\n" not in str(caught.value)


def test_a_signature_of_the_library_itself_passes_and_ours_passes_with_its_command(
    signed: Path, keys: tuple[Path, Path]
) -> None:
    key = ["--signature", str(signature_path(signed)), "--public_key", str(keys[1])]
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(signed), *key]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr

    from model_signing import signing

    config = signing.Config()  # type: ignore[no-untyped-call]
    config.use_elliptic_key_signer(private_key=keys[0]).sign(signed, signature_path(signed))
    check_signature(open_package(signed), keys[1])


def test_a_key_of_another_kind_is_refused(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    strange: list[PrivateKeyTypes] = [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256K1())]
    for number, key in enumerate(strange):
        private, public = write_keys(tmp_path / str(number), key)
        with pytest.raises(SignatureError, match=r"key\.pub: expected a public elliptic-curve key in PEM, on P-256"):
            check_signature(open_package(signed), public)
        with pytest.raises(SignatureError, match=r"key\.pem: expected a private elliptic-curve key in PEM, on P-256"):
            sign(signed, private)
    with pytest.raises(SignatureError, match=r"key\.pem: expected a public elliptic-curve key"):
        check_signature(open_package(signed), keys[0])
    with pytest.raises(SignatureError, match=r"nowhere: expected a public elliptic-curve key.*No such file"):
        check_signature(open_package(signed), tmp_path / "nowhere")


def test_without_the_library_the_error_says_how_to_get_it(
    signed: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(SignatureError, match=r"pip install 'vaeport\[sign\]'"):
        check_signature(open_package(signed), keys[1])
