"""A run directory is read strictly: what is missing, damaged or of another shape is named."""

import dataclasses
import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from training import data
from training.config import Config
from training.errors import RunError
from training.files import remove_leftovers, write_atomically
from training.run import BEST, check_resumable, create_run, locked, open_run, read_tensors, write_tensors


@pytest.fixture
def copy(digits_run: Path, tmp_path: Path) -> Path:
    """A run to break."""
    return Path(shutil.copytree(digits_run, tmp_path / "run"))


def test_it_holds_what_the_design_says(digits_run: Path) -> None:
    for name in ("checkpoint.safetensors", "last.safetensors", "state.safetensors", "heldout.npz", "metrics.jsonl"):
        assert (digits_run / name).is_file(), name
    assert list(digits_run.glob("events.out.tfevents.*"))
    description = json.loads((digits_run / "run.json").read_text())
    assert description["data"]["digest"].startswith("sha256:")
    assert description["data"]["train"] + description["data"]["test"] == 1797
    assert description["config"]["seed"] == 0
    assert {"python", "torch", "vaeport"} <= description["versions"].keys()
    assert description["best"]["test_loss"] > 0
    assert not list(digits_run.glob(".*"))  # no temporary file stays


def test_heldout_images_are_in_range(digits_run: Path) -> None:
    images = open_run(digits_run).heldout()
    assert images.dtype == np.float32
    assert images.shape == (64, 1, 8, 8)
    assert (images.min(), images.max()) == (0.0, 1.0)


def test_heldout_images_are_of_all_classes_though_a_folder_has_one_after_the_other(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(4), 100)
    images = np.repeat(labels[:, None, None], 16, 1).reshape(-1, 4, 4).astype(np.uint8) * 60
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    config = Config(str(tmp_path / "a.npz"), tmp_path / "run", test_fraction=0.5)
    heldout = create_run(config, data.load(config, tmp_path), "cpu").heldout()
    assert len(heldout) == 64
    assert len(np.unique(heldout[:10, 0, 0, 0])) == 4


def read_everything(path: Path) -> None:
    run = open_run(path)
    run.load_model()
    run.heldout()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: shutil.rmtree(r), "no such run directory"),
        (lambda r: (r / "run.json").unlink(), r"not a run directory: run\.json is missing"),
        (lambda r: (r / "run.json").write_text("{"), r"run\.json: not JSON"),
        (lambda r: (r / "run.json").write_text('{"format": "other"}'), "expected 'vaeport-run/2', got 'other'"),
        (lambda r: (r / "run.json").write_text("[]"), "expected 'vaeport-run/2', got None"),
        (lambda r: (r / "run.json").write_text('{"format": "vaeport-run/2"}'), "missing best, config, data, device"),
        (lambda r: (r / BEST).unlink(), r"checkpoint\.safetensors is missing"),
        (lambda r: (r / BEST).write_bytes(b"nonsense"), r"checkpoint\.safetensors: damaged"),
        (lambda r: (r / BEST).write_bytes((r / BEST).read_bytes()[:-1]), r"checkpoint\.safetensors: damaged"),
        (lambda r: (r / "heldout.npz").unlink(), r"heldout\.npz is missing"),
        (lambda r: (r / "heldout.npz").write_bytes(b"other"), r"heldout\.npz: expected sha256"),
    ],
)
def test_a_damaged_run_is_refused_by_name(copy: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(copy)
    with pytest.raises(RunError, match=message):
        read_everything(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("encoder.mean.bias"), "missing tensors: encoder.mean.bias"),
        (lambda t: t.update(extra=torch.zeros(1)), "unknown tensors: extra"),
        (
            lambda t: t.update({"encoder.mean.bias": torch.zeros(6)}),
            r"encoder.mean.bias: expected shape \[5\], got \[6\]",
        ),
    ],
)
def test_weights_that_are_not_the_model_s_are_refused(
    copy: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    tensors, header = read_tensors(copy / BEST)
    change(tensors)
    write_tensors(copy / BEST, tensors, header)
    with pytest.raises(RunError, match=message):
        open_run(copy).load_model()


def test_an_existing_run_is_never_overwritten(copy: Path) -> None:
    dataset = data.load(Config(), copy)
    with pytest.raises(RunError, match="is there already; go on with it by --resume"):
        create_run(Config(run=copy), dataset, "cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.5}, "--lr: the run has 0.001, got 0.5"),
        ({"latent_dim": 7}, "--latent-dim: the run has 5, got 7"),
        ({"seed": 3}, "--seed: the run has 0, got 3"),
    ],
)
def test_a_run_resumes_with_its_own_settings_only(copy: Path, changes: dict[str, object], message: str) -> None:
    own = {"latent_dim": 5, "hidden_dims": (32, 32), **changes}
    config = Config("digits", copy, epochs=9, **own)  # type: ignore[arg-type]
    with pytest.raises(RunError, match=message):
        check_resumable(open_run(copy), config, data.load(Config(), copy), "cpu")


def test_a_run_resumes_on_its_own_device_and_never_with_fewer_epochs(copy: Path) -> None:
    config = Config("digits", copy, epochs=9, latent_dim=5, hidden_dims=(32, 32))
    dataset = data.load(Config(), copy)
    check_resumable(open_run(copy), config, dataset, "cpu")
    with pytest.raises(RunError, match="--device: the run is on cpu, got cuda"):
        check_resumable(open_run(copy), config, dataset, "cuda")
    with pytest.raises(RunError, match="--epochs: the run has 2 already, got 1"):
        check_resumable(open_run(copy), dataclasses.replace(config, epochs=1), dataset, "cpu")


@pytest.mark.parametrize("name", ["data", "test_data"])
def test_a_run_among_its_own_images_is_refused(tmp_path: Path, name: str) -> None:
    config = Config(run=tmp_path / "images" / "run")
    config = dataclasses.replace(config, **{name: str(tmp_path / "images")})  # type: ignore[arg-type]
    (tmp_path / "images").mkdir()
    with pytest.raises(RunError, match=f"run: lies inside the images of --{name.replace('_', '-')} .*: choose another"):
        create_run(config, data.load(Config(), tmp_path), "cpu")
    assert not config.run.exists()


def test_only_one_process_trains_into_a_run(copy: Path) -> None:
    with locked(copy):
        second = locked(copy)
        with pytest.raises(RunError, match="another process is training into it"), second:
            pass
    with locked(copy):
        pass


def test_what_a_kill_left_of_the_first_step_is_taken_over(copy: Path, tmp_path: Path) -> None:
    left = tmp_path / "left"
    left.mkdir()
    shutil.copyfile(copy / "heldout.npz", left / "heldout.npz")
    (left / ".run.json.abcd_123").write_text("{")
    create_run(Config(run=left), data.load(Config(), copy), "cpu")
    remove_leftovers(left)
    assert sorted(path.name for path in left.iterdir()) == ["heldout.npz", "run.json"]


def test_a_run_resumes_with_its_own_data_only(copy: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "other.npy", np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8))
    config = Config(str(tmp_path / "other.npy"), copy, epochs=9, latent_dim=5, hidden_dims=(32, 32))
    with pytest.raises(RunError, match="--data: the run was made with other data"):
        check_resumable(open_run(copy), config, data.load(config, copy), "cpu")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file"
    write_atomically(target, b"old")
    monkeypatch.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_told_with_the_file_that_was_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/file'"):
        write_atomically(tmp_path / "file", b"new")


def test_files_of_the_user_in_a_run_are_left_alone(tmp_path: Path) -> None:
    write_atomically(tmp_path / "run.json", b"{}")
    for name in (".gitignore", ".run.json.abcd_123"):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".gitignore", "run.json"]
