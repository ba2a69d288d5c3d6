"""`python -m export sign` and `verify-signature`, as a person types them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from export.sign import sign
from tests.support import ROOT, write_keys
from vaeport.package import UnlistedFileError
from vaeport.versions import versions


def export(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "export", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_a_package_is_signed_beside_itself_and_verified(package: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    folder = Path(shutil.copytree(package, tmp_path / "digits" / "1"))
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))

    signed = export("sign", folder, "--private-key", private)
    assert (signed.returncode, signed.stdout) == (0, f"{folder}.sig\n"), signed.stderr
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before
    assert sorted(path.name for path in folder.parent.iterdir()) == ["1", "1.sig"]
    assert versions(folder.parent) == [1]

    verified = export("verify-signature", folder, "--public-key", public)
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout.startswith(f"{folder}: digits version 1, sha256:")

    _, stranger = write_keys(tmp_path / "stranger")
    refused = export("verify-signature", folder, "--public-key", stranger)
    assert (refused.returncode, refused.stdout) == (1, "")
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"export: error: {folder}.sig: expected a signature of {folder} by {stranger}: Key mismatch")


def test_a_signed_package_is_not_taken_for_another_version(
    package: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(package, tmp_path / "digits" / "1"))
    signature = sign(folder, keys[0])
    shutil.copytree(folder, tmp_path / "digits" / "7")
    shutil.copy(signature, tmp_path / "digits" / "7.sig")
    refused = export("verify-signature", tmp_path / "digits" / "7", "--public-key", keys[1])
    assert refused.returncode == 1
    assert "digits/7: holds version 1 of 'digits'; a package keeps its name" in refused.stderr


def test_a_new_signature_replaces_the_old_one(package: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(package, tmp_path / "digits" / "1"))
    (tmp_path / "digits" / "1.sig").write_text("of a key that was lost")
    assert "dsseEnvelope" in sign(folder, keys[0]).read_text()


def test_a_broken_package_is_not_signed(package: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(package, tmp_path / "digits" / "1"))
    (folder / "more.txt").write_text("x")
    with pytest.raises(UnlistedFileError, match=r"more\.txt"):
        sign(folder, keys[0])
    assert not (tmp_path / "digits" / "1.sig").exists()
