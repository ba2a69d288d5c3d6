"""What a minor version has promised on the wire is not broken, and whatever would break it is seen and named."""

import re
import shutil
from pathlib import Path

import pytest

from release import contract
from release.commands import ReleaseError
from vaeport import __version__

PROTO = Path("vaeport/v1/vae.proto")

BREAKING: list[tuple[str, str, str, str]] = [
    ("a field goes", "  bytes data = 3;\n", "", 'Previously present field "3" with name "data" on message "Tensor"'),
    ("a number changes", "bytes data = 3;", "bytes data = 4;", 'Previously present field "3" with name "data"'),
    ("a name changes", "bytes data = 3;", "bytes content = 3;", 'Field "3" on message "Tensor" changed name'),
    ("a type changes", "bytes data = 3;", "string data = 3;", 'changed type from "bytes" to "string"'),
    ("one becomes many", "bytes data = 3;", "repeated bytes data = 3;", "changed cardinality"),
    ("many become one", "repeated int64 shape = 2;", "int64 shape = 2;", "changed cardinality"),
    ("a presence goes", "optional uint64 seed", "uint64 seed", "changed cardinality"),
    ("an enum's value goes", "  DTYPE_UINT8 = 3;\n", "", 'enum value "3" on enum "DType" was deleted'),
    ("an enum's value moves", "DTYPE_UINT8 = 3;", "DTYPE_UINT8 = 4;", 'enum value "3" on enum "DType" was deleted'),
    ("an enum's value is renamed", "DTYPE_UINT8 = 3;", "DTYPE_BYTE = 3;", 'from "DTYPE_UINT8" to "DTYPE_BYTE"'),
    (
        "a method goes",
        "  rpc Score(ScoreRequest) returns (ScoreResponse);\n",
        "",
        'Previously present RPC "Score" on service "VaeService" was deleted',
    ),
    (
        "a method streams",
        "rpc Score(ScoreRequest) returns (ScoreResponse)",
        "rpc Score(ScoreRequest) returns (stream ScoreResponse)",
        'RPC "Score" on service "VaeService" changed from server unary to server streaming',
    ),
    (
        "a method answers with something else",
        "rpc Score(ScoreRequest) returns (ScoreResponse)",
        "rpc Score(ScoreRequest) returns (EncodeResponse)",
        'RPC "Score" on service "VaeService" changed response type',
    ),
    ("the package changes", "package vaeport.v1;", "package vaeport.v2;", "vaeport.v2"),
]

ADDITIONS = [
    ("message Tensor {\n", "message Tensor {\n  string note = 99;\n"),
    ("  DTYPE_UINT8 = 3;\n", "  DTYPE_UINT8 = 3;\n  DTYPE_INT8 = 9;\n"),
    ("service VaeService {\n", "service VaeService {\n  rpc Again(ScoreRequest) returns (ScoreResponse);\n"),
    ("package vaeport.v1;\n", "package vaeport.v1;\n\nmessage Another {\n  bool good = 1;\n}\n"),
]


@pytest.fixture
def protos(tmp_path: Path) -> Path:
    """A copy of protos/ that a test may change."""
    return shutil.copytree(contract.PROTOS, tmp_path / "protos")


def change(protos: Path, old: str, new: str) -> None:
    text = (protos / PROTO).read_text()
    assert old in text
    (protos / PROTO).write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("promised", sorted(contract.KEPT.iterdir()), ids=lambda folder: folder.name)
def test_nothing_that_was_promised_is_broken(promised: Path) -> None:
    contract.check_unbroken(promised)


def test_every_released_minor_version_has_its_contract_kept() -> None:
    kept = {folder.name for folder in contract.KEPT.iterdir()}
    assert contract.minor(__version__) in kept
    assert contract.released_minors(contract.CHANGELOG.read_text()) <= kept


@pytest.mark.parametrize(("old", "new", "named"), [row[1:] for row in BREAKING], ids=[row[0] for row in BREAKING])
def test_a_breaking_change_is_named(protos: Path, old: str, new: str, named: str) -> None:
    change(protos, old, new)
    with pytest.raises(ReleaseError, match=re.escape(named)):
        contract.check_unbroken(contract.PROTOS, protos)


def test_a_file_that_goes_is_named(protos: Path) -> None:
    (protos / PROTO).rename(protos / "other.proto")
    with pytest.raises(ReleaseError, match=re.escape(f'Previously present file "{PROTO}" was deleted')):
        contract.check_unbroken(contract.PROTOS, protos)


def test_additions_break_nothing(protos: Path) -> None:
    for old, new in ADDITIONS:
        change(protos, old, new)
    contract.check_unbroken(contract.PROTOS, protos)


def test_released_versions_are_the_headings_with_a_number() -> None:
    text = "# Changelog\n\n## Unreleased\n\n## [1.10.2] - 2027-01-31\n\n### 3.0.0\n\n## 0.1.0 - 2026-12-01\n"
    assert contract.released_minors(text) == {"1.10", "0.1"}


def test_a_contract_that_is_not_released_is_kept_anew(protos: Path, tmp_path: Path) -> None:
    (tmp_path / "CHANGELOG.md").write_text("## Unreleased\n")
    for name in ("data", "content"):
        kept = contract.keep("0.1.0", protos, tmp_path / "kept", tmp_path / "CHANGELOG.md")
        assert f"bytes {name} = 3;" in (kept / PROTO).read_text()
        change(protos, "bytes data", "bytes content") if name == "data" else None
    assert kept == tmp_path / "kept" / "0.1"


def test_a_contract_that_is_released_may_grow_but_not_break(protos: Path, tmp_path: Path) -> None:
    (tmp_path / "CHANGELOG.md").write_text("## [0.1.0] - 2027-01-31\n")
    kept = contract.keep("0.1.0", protos, tmp_path / "kept", tmp_path / "CHANGELOG.md")
    change(protos, *ADDITIONS[0])
    contract.keep("0.1.1", protos, tmp_path / "kept", tmp_path / "CHANGELOG.md")
    assert "string note = 99;" in (kept / PROTO).read_text()
    change(protos, "  bytes data = 3;\n", "")
    with pytest.raises(ReleaseError, match='"data" on message "Tensor"'):
        contract.keep("0.1.2", protos, tmp_path / "kept", tmp_path / "CHANGELOG.md")
    assert "bytes data = 3;" in (kept / PROTO).read_text()
