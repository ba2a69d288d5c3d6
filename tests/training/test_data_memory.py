"""Images larger than memory: a mapped file, or a refusal that states the bytes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.test_data import load, noise
from training.data import images as images_module
from training.data import memory
from training.errors import DataError

GIB = 2**30


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> int:
    """As if so few bytes were available."""
    monkeypatch.setattr(memory, "available", lambda: 1000)
    return 1000


# --- mapped files ---


def test_a_file_of_half_the_memory_is_read_and_a_larger_one_stays_on_the_disk(
    tmp_path: Path, little_memory: int
) -> None:
    np.save(tmp_path / "fits.npy", noise(20, 5, 5))
    np.save(tmp_path / "large.npy", noise(21, 5, 5))
    assert load(tmp_path / "fits.npy").train.resident
    large = load(tmp_path / "large.npy")
    assert not large.train.resident
    assert not large.test.resident


@pytest.mark.parametrize("kind", [np.uint8, np.bool_])
def test_a_mapped_file_is_the_same_data_as_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    np.save(tmp_path / "a.npy", noise(50, 3, 5, 4) if kind is np.uint8 else noise(50, 3, 5, 4) > 99)
    resident = load(tmp_path / "a.npy", test_fraction=0.3)
    monkeypatch.setattr(memory, "available", lambda: 1000)
    monkeypatch.setattr(images_module, "CHUNK_BYTES", 7 * 60)
    mapped = load(tmp_path / "a.npy", test_fraction=0.3)
    assert (mapped.digest, mapped.scale, mapped.preprocessing) == (
        resident.digest,
        resident.scale,
        resident.preprocessing,
    )
    for here, there in ((resident.train, mapped.train), (resident.test, mapped.test)):
        assert not there.resident
        assert len(there) == len(here)
        index = np.arange(len(here))
        assert np.array_equal(there.rows(index), here.pixels)
        assert np.array_equal(np.concatenate(list(there.chunks())), here.pixels)


def test_rows_are_in_memory_and_in_the_order_asked_for(tmp_path: Path, little_memory: int) -> None:
    np.save(tmp_path / "a.npy", noise(50, 5, 5))
    part = load(tmp_path / "a.npy").train
    index = np.array([7, 3, 3, 40])
    rows = part.rows(index)
    assert type(rows) is np.ndarray
    assert np.array_equal(rows, np.stack([part.rows(np.array([i]))[0] for i in index]))


def test_taking_twice_is_taking_from_what_was_taken(tmp_path: Path, little_memory: int) -> None:
    np.save(tmp_path / "a.npy", noise(50, 5, 5))
    part = load(tmp_path / "a.npy").train
    twice = part.take(np.array([9, 4, 6])).take(np.array([2, 0]))
    assert not twice.resident
    assert np.array_equal(twice.rows(np.arange(2)), part.rows(np.array([6, 9])))


def test_a_mapped_file_is_not_written_to(tmp_path: Path, little_memory: int) -> None:
    np.save(tmp_path / "a.npy", noise(50, 5, 5))
    assert not load(tmp_path / "a.npy").train.pixels.flags.writeable


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((50, 5, 5), 9, np.uint8), "all 50 images are equal"),
        (noise(50, 5, 5) % 2, "none is above 1; save binary images as bool"),
    ],
)
def test_a_mapped_file_is_checked_like_others(
    tmp_path: Path, little_memory: int, array: np.ndarray, message: str
) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "a.npy")


def test_a_mapped_file_cut_short_is_named(tmp_path: Path, little_memory: int) -> None:
    np.save(tmp_path / "a.npy", noise(50, 5, 5))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    with pytest.raises(DataError, match=r"a\.npy: cannot be read"):
        load(tmp_path / "a.npy")


def test_data_to_test_on_can_be_mapped_alone(tmp_path: Path, little_memory: int) -> None:
    np.save(tmp_path / "train.npy", noise(9, 5, 5))
    np.save(tmp_path / "test.npy", noise(50, 5, 5))
    dataset = load(tmp_path / "train.npy", test_data=str(tmp_path / "test.npy"))
    assert (dataset.train.resident, dataset.test.resident) == (True, False)
    assert np.array_equal(dataset.test.rows(np.arange(50))[:, 0], noise(50, 5, 5))


# --- refusals ---


def test_floats_that_do_not_fit_are_refused_with_their_bytes(tmp_path: Path, little_memory: int) -> None:
    np.save(tmp_path / "a.npy", (noise(50, 5, 5) / 255).astype(np.float32))
    with pytest.raises(
        DataError, match=r"a\.npy: the images need 5,000 bytes .* 1,000 bytes are available; a \.npy of uint8"
    ):
        load(tmp_path / "a.npy")


def test_floats_that_outgrow_the_memory_as_float32_are_refused(tmp_path: Path, little_memory: int) -> None:
    np.save(tmp_path / "a.npy", (noise(9, 5, 5) / 255).astype(np.float16))
    with pytest.raises(DataError, match=r"a\.npy: the images need 900 bytes .* a \.npy of uint8"):
        load(tmp_path / "a.npy")


def test_an_archive_that_does_not_fit_is_refused_before_it_is_unpacked(tmp_path: Path, little_memory: int) -> None:
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((5000, 10, 10), np.uint8))
    assert (tmp_path / "a.npz").stat().st_size < 5000
    with pytest.raises(DataError, match=r"a\.npz: the images need 500,128 bytes .* 1,000 bytes are available"):
        load(tmp_path / "a.npz")


def test_a_folder_that_does_not_fit_is_refused_and_a_smaller_size_fits(tmp_path: Path, little_memory: int) -> None:
    for index in range(20):
        Image.fromarray(noise(6, 5, 3, seed=index)).save(tmp_path / f"{index}.png")
    with pytest.raises(DataError, match=r"the images need 1,800 bytes .* 1,000 bytes are available; --image-size"):
        load(tmp_path)
    assert load(tmp_path, image_size=2).image_shape == (3, 2, 2)


def test_a_size_that_does_not_fit_is_refused_before_an_image_is_brought_to_it(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(noise(6, 5)).save(tmp_path / name)
    with pytest.raises(DataError, match="the images need 2,000,000,000,000,000,000 bytes"):
        load(tmp_path, image_size=10**9)


def test_an_array_that_grows_out_of_memory_is_refused(tmp_path: Path, little_memory: int) -> None:
    np.save(tmp_path / "a.npy", noise(9, 5, 5))
    with pytest.raises(DataError, match=r"the images need 8,100 bytes .* choose a smaller --image-size"):
        load(tmp_path / "a.npy", image_size=30)


# --- what is available ---


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


MEMINFO = {"proc/meminfo": f"MemTotal: {32 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {24 * 2**20} kB\n"}


def test_without_control_groups_the_machine_counts(tmp_path: Path) -> None:
    assert memory.available(write(tmp_path, MEMINFO)) == 24 * GIB


def test_without_proc_all_memory_counts(tmp_path: Path) -> None:
    assert memory.available(tmp_path) > 2**28


@pytest.mark.parametrize("group", ["/jobs/mine", "/"])
def test_the_limit_of_a_container_counts_less_what_it_uses_but_for_the_cache(tmp_path: Path, group: str) -> None:
    cgroup = {
        "proc/self/cgroup": f"0::{group}\n",
        f"sys/fs/cgroup{group}/memory.max": f"{8 * GIB}\n",
        f"sys/fs/cgroup{group}/memory.current": f"{3 * GIB}\n",
        f"sys/fs/cgroup{group}/memory.stat": f"anon 5\ninactive_file {GIB}\nactive_file 7\n",
    }
    assert memory.available(write(tmp_path, MEMINFO | cgroup)) == 6 * GIB + 7


A_LIMIT_AROUND_THE_OWN_GROUP = {
    "proc/self/cgroup": "0::/jobs/mine\n",
    "sys/fs/cgroup/jobs/mine/memory.max": "max\n",
    "sys/fs/cgroup/jobs/mine/memory.current": f"{GIB}\n",
    "sys/fs/cgroup/jobs/memory.max": f"{4 * GIB}\n",
    "sys/fs/cgroup/jobs/memory.current": f"{GIB}\n",
}
VERSION_1 = {
    "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/of-the-host\n0::/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 * GIB}\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{2 * GIB}\n",
    "sys/fs/cgroup/memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}\n",
}
OVER_ITS_LIMIT = {
    "proc/self/cgroup": "0::/\n",
    "sys/fs/cgroup/memory.max": f"{GIB}\n",
    "sys/fs/cgroup/memory.current": f"{2 * GIB}\n",
}


@pytest.mark.parametrize(
    ("cgroup", "left"), [(A_LIMIT_AROUND_THE_OWN_GROUP, 3 * GIB), (VERSION_1, 3 * GIB), (OVER_ITS_LIMIT, 0)]
)
def test_what_a_control_group_leaves(tmp_path: Path, cgroup: dict[str, str], left: int) -> None:
    assert memory.available(write(tmp_path, MEMINFO | cgroup)) == left
