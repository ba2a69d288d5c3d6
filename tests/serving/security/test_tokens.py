"""The file of tokens, and the command that makes them."""

import hmac
import logging
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from serving.commands import run_command
from serving.security import tokens
from serving.security.access import Scope
from serving.security.tokens import line_of, new_secret, read_tokens, watch_tokens
from serving.settings import SettingsError
from tests.support import ROOT
from vaeport.errors import VaeportError

DIGEST = "sha256:" + "ab" * 32
BOTH = frozenset({Scope.INFER, Scope.ADMIN})


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a_token_is_found_by_its_secret_alone(tmp_path: Path) -> None:
    secrets = [new_secret() for _ in range(3)]
    lines = [line_of(f"name{i}", [Scope.INFER], secret) for i, secret in enumerate(secrets)]
    text = f"# three of them\n\n{lines[0]}   # the first\n" + "\n".join(lines[1:])
    read = read_tokens(written(tmp_path / "tokens", text))
    assert len(read) == 3
    found = [read.find(secret) for secret in secrets]
    assert [token.name for token in found if token] == ["name0", "name1", "name2"]
    for wrong in (new_secret(), secrets[0][:-1], secrets[0] + "x", lines[0].split()[2], "\udcff", "x" * 10**5):
        assert read.find(wrong) is None
    assert not any(secret in text for secret in secrets)


def test_a_secret_is_256_random_bits_with_a_prefix() -> None:
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    assert all(secret.startswith("vaeport_") and len(secret) == len("vaeport_") + 43 for secret in made)


def test_every_token_is_compared_wherever_the_right_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the time tells nothing; that each comparison takes the same time is hmac's business."""
    secrets = [new_secret() for _ in range(5)]
    lines = "\n".join(line_of("name", [Scope.INFER], secret) for secret in secrets)
    read = read_tokens(written(tmp_path / "tokens", lines))
    compared: list[tuple[int, int]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return hmac.compare_digest(a, b)

    monkeypatch.setattr(tokens, "hmac", SimpleNamespace(compare_digest=compare))
    for secret in (secrets[0], secrets[4], "wrong", ""):
        compared.clear()
        read.find(secret)
        assert compared == [(32, 32)] * 5


def test_scopes_and_the_end_are_read(tmp_path: Path) -> None:
    text = f"""
    a infer,admin sha256:{"00" * 32}
    b admin sha256:{"01" * 32} 2027-01-01
    c infer sha256:{"02" * 32} 2027-01-01T01:00:00+01:00
    """
    a, b, c = read_tokens(written(tmp_path / "tokens", text))._tokens
    assert (a.scopes, a.expires) == (BOTH, None)
    assert (b.scopes, b.expires) == (frozenset({Scope.ADMIN}), 1798761600.0)
    assert (c.scopes, c.expires) == (frozenset({Scope.INFER}), 1798761600.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected 1 to 256 tokens, got 0"),
        ("# nobody\n", "got 0"),
        ("".join(f"n infer sha256:{i:064x}\n" for i in range(257)), "got 257"),
        (f"\na infer {DIGEST}\nb infer", "line 3: expected name, scopes, digest and perhaps an end, got 2 columns"),
        (f"a infer {DIGEST} 2027-01-01 more", "line 1: .* got 5 columns"),
        (f"a/b infer {DIGEST}", "line 1: expected a name of up to 64 letters"),
        (f"{'a' * 65} infer {DIGEST}", "expected a name"),
        (f"a all {DIGEST}", "expected scopes of infer, admin"),
        (f"a infer,, {DIGEST}", "expected scopes"),
        (f"a infer {DIGEST.upper()}", "expected sha256: and 64 hexadecimal digits"),
        (f"a infer {DIGEST} tomorrow", "expected an end as 2027-01-31"),
        (f"a infer {DIGEST}\nb admin {DIGEST}", "line 2: this token has a line already"),
        (b"\xff\xfe", "expected UTF-8"),
        (b"#" * (2**20 + 1), "expected at most 1048576 bytes"),
    ],
)
def test_a_wrong_file_is_refused_by_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsError, match=message):
        read_tokens(path)


def test_a_token_that_somebody_put_into_the_file_by_mistake_is_not_repeated(tmp_path: Path) -> None:
    secret = new_secret()
    for line in (f"bob infer {secret}", f"{secret} infer {DIGEST}", f"bob {secret} {DIGEST}", secret):
        with pytest.raises(SettingsError) as refused:
            read_tokens(written(tmp_path / "tokens", line))
        assert secret not in str(refused.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(SettingsError, match="--tokens /no/tokens: No such file or directory"):
        read_tokens(Path("/no/tokens"))


def test_a_file_that_everybody_reads_is_said_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path / "tokens", f"a infer {DIGEST}")
    watch_tokens(path)
    assert not caplog.records
    path.chmod(0o644)  # as Kubernetes mounts secrets
    watch_tokens(path)
    assert f"--tokens {path}: everybody on this machine can read it" in caplog.text


def test_a_changed_file_is_taken_and_a_broken_one_keeps_the_old(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    old, new = new_secret(), new_secret()
    path = written(tmp_path / "tokens", line_of("old", [Scope.INFER], old))
    watched = watch_tokens(path)
    assert not watched.refresh()
    path.write_text("half a li")
    assert not watched.refresh()
    assert watched.value.find(old)
    assert "tokens: changed, but the old one stays in use: --tokens" in caplog.text
    caplog.clear()
    assert not watched.refresh()
    assert not caplog.records, "once per change"
    path.unlink()
    watched.refresh()
    assert watched.value.find(old)
    path.write_text(line_of("new", [Scope.INFER], new))
    assert watched.refresh()
    assert watched.value.find(old) is None
    assert watched.value.find(new)
    assert f"tokens: renewed from {path}" in caplog.text
    assert not any(secret in caplog.text for secret in (old, new))


def test_a_file_behind_a_link_is_renewed_by_moving_the_link(tmp_path: Path) -> None:
    """As Kubernetes renews what it mounts."""
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        written(tmp_path / version / "tokens", line_of(f"v{version}", [Scope.INFER], version))
    data = tmp_path / "..data"
    data.symlink_to("1")
    watched = watch_tokens(data / "tokens")
    (tmp_path / "next").symlink_to("2")
    (tmp_path / "next").replace(data)
    assert watched.refresh()
    assert watched.value.find("2")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serving", "token", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_prints_the_token_once_and_its_line_apart(tmp_path: Path) -> None:
    made = make("bob", "--scopes", "infer", "admin", "--expires", "2027-01-01")
    assert made.returncode == 0
    secret = made.stdout.strip()
    read = read_tokens(written(tmp_path / "tokens", made.stderr))
    token = read.find(secret)
    assert token is not None
    assert (token.name, token.scopes, token.expires) == ("bob", BOTH, 1798761600.0)


def test_the_command_appends_to_a_file_that_its_owner_alone_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tokens"
    for name in ("alice", "bob"):
        run_command("token", [name, "--tokens", str(path)])
        path.write_text(path.read_text().rstrip("\n"))  # as an editor may leave it
    alice, bob = capsys.readouterr().out.split()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    read = read_tokens(path)
    assert [token and token.name for token in map(read.find, (alice, bob))] == ["alice", "bob"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["b b"], "expected a name"),
        (["bob", "--expires", "soon"], "expected an end"),
        (["bob", "--scopes"], "expected scopes of infer, admin"),
        (["bob", "--tokens", "/no/tokens"], "No such file or directory"),
    ],
)
def test_the_command_refuses_what_no_server_would_read(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((VaeportError, OSError), match=message):
        run_command("token", arguments)
    assert capsys.readouterr().out == ""


def test_the_command_adds_nothing_to_a_broken_file(tmp_path: Path) -> None:
    path = written(tmp_path / "tokens", "broken\n")
    with pytest.raises(SettingsError, match="line 1: expected name"):
        run_command("token", ["bob", "--tokens", str(path)])
    assert path.read_text() == "broken\n"
