"""A socket in the file system: its permissions, and how one takes the place of another."""

import os
import socket
import stat
from pathlib import Path

import pytest

from serving.security import unix
from serving.settings import SettingsError


def bound(path: Path, mode: int = 0o600) -> socket.socket:
    """A listener, bound aside as a worker does."""
    listener = socket.socket(socket.AF_UNIX)
    with unix.socket_mode(mode):
        listener.bind(str(unix.temporary_path(path)))
    listener.listen()
    return listener


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o000])
def test_a_socket_has_its_mode_from_the_first_moment(tmp_path: Path, mode: int) -> None:
    before = os.umask(0o022)
    os.umask(before)
    with bound(tmp_path / "s", mode):
        assert stat.S_IMODE(unix.temporary_path(tmp_path / "s").stat().st_mode) == mode
    after = os.umask(0o022)
    os.umask(after)
    assert before == after


def test_a_successor_takes_the_place_at_once_and_open_connections_stay(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with bound(path) as old:
        first = unix.publish(path)
        with socket.socket(socket.AF_UNIX) as early, bound(path) as new:
            early.connect(str(path))
            second = unix.publish(path)
            with socket.socket(socket.AF_UNIX) as late:
                late.connect(str(path))
                for listener, text in ((old, b"old"), (new, b"new")):
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(text)
                assert (early.recv(3), late.recv(3)) == (b"old", b"new")
            unix.withdraw(path, first)
            assert path.exists(), "a predecessor removes nothing of its successor"
            unix.withdraw(path, second)
            assert list(tmp_path.iterdir()) == []
            unix.withdraw(path, second)


def test_what_a_killed_server_left_is_no_obstacle_but_a_living_one_is(tmp_path: Path) -> None:
    path = tmp_path / "s"
    unix.check_path(path)
    with bound(path):
        unix.publish(path)
        with pytest.raises(SettingsError, match=f"--listen unix:{path}: somebody listens there"):
            unix.check_path(path)
    unix.check_path(path)


def test_a_path_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="exists, and is not a socket"):
        unix.check_path(tmp_path / "file")
    with pytest.raises(SettingsError, match="no such folder"):
        unix.check_path(tmp_path / "no" / "s")
    with pytest.raises(SettingsError, match="expected a path of at most 99 bytes"):
        unix.check_path(tmp_path / ("s" * 100))
