"""Client, AsyncClient and Model: the same methods, and the same numbers from all of them."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vaeport
from tests.support import ServerProcess
from vaeport.testing import AsyncFakeClient, FakeClient
from vaeport.v1 import vae_pb2, vae_pb2_grpc
from vaeport.wire import from_tensor, to_tensor

METHODS = (
    "decode",
    "encode",
    "encode_stream",
    "image_shape",
    "info",
    "interpolate",
    "latent_dim",
    "reconstruct",
    "sample",
    "sample_stream",
    "score",
)
STREAMS = ("encode_stream", "sample_stream")
PIXELS = np.random.default_rng(0).integers(0, 17, (1030, 8, 8), np.uint8)  # more than a request has
FLOATS = PIXELS.astype(np.float64) / 16


@pytest.fixture(scope="module")
def model(package: Path) -> vaeport.Model:
    return vaeport.load(package)


def public(kind: type) -> set[str]:
    names = {name for base in kind.__mro__[:-1] for name in vars(base)}
    return {name for name in names if not name.startswith("_")}


def test_all_have_the_same_methods() -> None:
    assert public(vaeport.Model) == set(METHODS)
    for client in (vaeport.Client, vaeport.AsyncClient):
        assert public(client) == {*METHODS, "close"}
    for fake in (FakeClient, AsyncFakeClient):
        assert public(fake) == {*METHODS, "close", "fail_next"}


def test_both_clients_have_the_same_arguments() -> None:
    assert inspect.signature(vaeport.Client) == inspect.signature(vaeport.AsyncClient)


def parameters(kind: type, name: str) -> list[tuple[str, Any, Any]]:
    function: Any = inspect.getattr_static(kind, name)
    function = function.fget if isinstance(function, property) else function
    return [(each.name, each.kind, each.default) for each in inspect.signature(function).parameters.values()]


def first_line(kind: type, name: str) -> str:
    return (inspect.getattr_static(kind, name).__doc__ or "").partition("\n")[0]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_the_same_parameters_and_summary_everywhere(name: str) -> None:
    assert parameters(vaeport.Client, name) == parameters(vaeport.AsyncClient, name) == parameters(vaeport.Model, name)
    assert first_line(vaeport.Client, name) == first_line(vaeport.AsyncClient, name) != ""
    if name not in (
        "info",
        "image_shape",
        "latent_dim",
    ):  # of which a server and a process have different things to say
        assert first_line(vaeport.Client, name) == first_line(vaeport.Model, name)


@pytest.mark.parametrize("name", METHODS)
def test_what_takes_time_is_awaited(name: str) -> None:
    function = inspect.getattr_static(vaeport.AsyncClient, name)
    assert inspect.iscoroutinefunction(function) is (name not in STREAMS)


def arrays(result: Any) -> list[np.ndarray]:
    """The numbers of any result."""
    if isinstance(result, np.ndarray):
        return [result]
    if isinstance(result, list):
        return [array for each in result for array in arrays(each)]
    fields = [getattr(result, name) for name in result.__dataclass_fields__]
    return [value for value in fields if isinstance(value, np.ndarray)]


def pictures(folder: Path) -> list[Path]:
    """Four files that digits of 8x8 pixels could have come from."""
    paths = [folder / f"{index}.png" for index in range(4)]
    for index, path in enumerate(paths):
        Image.fromarray(PIXELS[index]).save(path)
    return paths


CALLS: dict[str, Callable[[Any, Path], Any]] = {
    "encode bytes": lambda c, _: c.encode(PIXELS),
    "encode floats": lambda c, _: c.encode(FLOATS),
    "encode one": lambda c, _: c.encode(PIXELS[0]),
    "encode a path": lambda c, folder: c.encode(pictures(folder)[0]),
    "encode a path as text": lambda c, folder: c.encode(str(pictures(folder)[0])),
    "encode a picture": lambda c, folder: c.encode(Image.open(pictures(folder)[0])),
    "encode a mixed list": lambda c, folder: c.encode([*pictures(folder), FLOATS[7], PIXELS[8:11]]),
    "encode an iterator": lambda c, _: c.encode(iter(FLOATS)),
    "encode a mixed iterator": lambda c, folder: c.encode(iter([PIXELS[:700], *pictures(folder), FLOATS[0]])),
    "encode_stream": lambda c, _: c.encode_stream([PIXELS[:700], PIXELS[700]], chunk_rows=100),
    "decode": lambda c, _: c.decode(np.linspace(-2, 2, 600 * 5).reshape(600, 5)),
    "sample": lambda c, _: c.sample(1030, seed=3, temperature=0.7, first_row=2),
    "sample_stream": lambda c, _: c.sample_stream(1030, seed=3, first_row=2, chunk_rows=400),
    "reconstruct": lambda c, _: c.reconstruct(PIXELS),
    "reconstruct a path": lambda c, folder: c.reconstruct(pictures(folder)[0]),
    "interpolate": lambda c, _: c.interpolate(PIXELS[0], PIXELS[1], 5),
    "interpolate files": lambda c, folder: c.interpolate(*pictures(folder)[:2], 5, spherical=True),
    "interpolate latents": lambda c, _: c.interpolate(np.ones(5), -np.arange(5.0), 300, spherical=True),
    "interpolate both": lambda c, _: c.interpolate(PIXELS[0], np.ones(5), 2),
}


async def result_of(answer: Any) -> Any:
    """Of a call on any of the three."""
    if isinstance(answer, Awaitable):
        return await answer
    if isinstance(answer, AsyncIterator):
        return [each async for each in answer]
    return list(answer) if inspect.isgenerator(answer) else answer


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_gives_the_same_numbers_everywhere(
    name: str, server: ServerProcess, model: vaeport.Model, tmp_path: Path
) -> None:
    call = CALLS[name]
    expected = arrays(await result_of(call(model, tmp_path)))
    with vaeport.Client(server.address) as client:
        found = arrays(await result_of(call(client, tmp_path)))
    async with vaeport.AsyncClient(server.address) as client:
        awaited = arrays(await result_of(call(client, tmp_path)))
    assert len(expected) == len(found) == len(awaited) > 0
    for ours, theirs, others in zip(expected, found, awaited, strict=True):
        assert ours.shape == theirs.shape == others.shape
        assert ours.tobytes() == theirs.tobytes() == others.tobytes()


async def test_scores_and_facts_are_the_same_everywhere(server: ServerProcess, model: vaeport.Model) -> None:
    expected = model.score(PIXELS, importance_samples=2, seed=3, first_row=5)
    with vaeport.Client(server.address) as client:
        found = client.score(PIXELS, importance_samples=2, seed=3, first_row=5)
        facts = client.info(), client.image_shape, client.latent_dim
    async with vaeport.AsyncClient(server.address) as client:
        awaited = await client.score(PIXELS, importance_samples=2, seed=3, first_row=5)
        assert (await client.info(), await client.image_shape(), await client.latent_dim()) == facts
    assert facts[0].models == model.info().models
    for ours, theirs, others in zip(*map(arrays, (expected, found, awaited)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
        assert theirs.tobytes() == others.tobytes()


BAD: dict[str, tuple[Callable[[Any, Path], Any], str]] = {
    "shape": (lambda c, _: c.encode(np.zeros((2, 7, 8), np.uint8)), r"images: expected shape \[rows, 1, 8, 8\]"),
    "range": (lambda c, _: c.reconstruct(np.full((8, 8), 2.0)), r"images: expected values in \[0, 1\], got 2.0"),
    "nothing": (lambda c, _: c.encode(iter(())), "images: expected at least 1 row, got 0 rows"),
    "iterator": (lambda c, _: c.score(iter(PIXELS)), "images: .* a generator goes to encode"),
    "no picture": (
        lambda c, folder: c.encode(write(folder / "x.png", b"no")),
        "expected a readable picture, got .*x.png",
    ),
    "bright": (
        lambda c, folder: c.encode(Image.new("L", (8, 8), 200)),
        r"images: expected pixels up to 16, got 200",
    ),
    "large": (lambda c, folder: c.encode(Image.new("L", (9, 8))), "images: expected 8x8 pixels, .* got 9x8"),
    "steps": (lambda c, _: c.interpolate(PIXELS[0], PIXELS[1], 1), "steps: expected at least 2, got 1"),
    "two images": (lambda c, _: c.interpolate(PIXELS[0], PIXELS[:2], 3), "b: expected one image, or one latent"),
    "latent": (lambda c, _: c.interpolate(np.ones(4), PIXELS[0], 3), r"a: expected shape \[rows, 5\], got shape \[4\]"),
    "chunk_rows": (lambda c, _: c.sample_stream(1, chunk_rows=0), "chunk_rows: expected 1 to 4294967295, got 0"),
    "stream chunk_rows": (lambda c, _: c.encode_stream([], chunk_rows=0), "chunk_rows: expected 1 to"),
    "count": (lambda c, _: c.sample_stream(0), "count: expected at least 1 row, got 0 rows"),
}


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", BAD)
async def test_bad_input_is_refused_in_the_same_words_everywhere(
    name: str, server: ServerProcess, model: vaeport.Model, tmp_path: Path
) -> None:
    call, message = BAD[name]
    texts = []
    with vaeport.Client(server.address) as client:
        async with vaeport.AsyncClient(server.address) as asynchronous:
            for each in (model, client, asynchronous, FakeClient((1, 8, 8), 5), AsyncFakeClient((1, 8, 8), 5)):
                if isinstance(each, FakeClient | AsyncFakeClient) and name in ("bright", "large"):
                    continue  # its pictures are prepared otherwise
                with pytest.raises(vaeport.InvalidInputError, match=message) as refused:
                    await result_of(call(each, tmp_path))
                texts.append(str(refused.value))
    assert len(set(texts)) == 1


async def test_a_file_that_is_not_there_is_an_os_error(server: ServerProcess, model: vaeport.Model) -> None:
    async with vaeport.AsyncClient(server.address) as client:
        with pytest.raises(FileNotFoundError):
            await client.encode("nowhere.png")
    with pytest.raises(FileNotFoundError):
        model.encode(Path("nowhere.png"))


async def test_a_draw_from_the_posterior_is_the_one_of_the_server(server: ServerProcess) -> None:
    import grpc

    request = vae_pb2.EncodeRequest(images=to_tensor(PIXELS[:9, None]), seed=7, first_row=4)
    with grpc.insecure_channel(server.address) as channel:
        theirs = from_tensor("latents", vae_pb2_grpc.VaeServiceStub(channel).Encode(request).latents)
    with vaeport.Client(server.address) as client:
        encoding = client.encode(PIXELS[:9])
    assert np.array_equal(encoding.sample(7, first_row=4), theirs)
    assert not np.array_equal(encoding.sample(), encoding.sample())
    with pytest.raises(vaeport.InvalidInputError, match="seed"):
        encoding.sample(-1)


class Counted(np.ndarray):
    """An image that is known to be alive."""

    alive = most = 0

    def __array_finalize__(self, _: object) -> None:
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)

    def __del__(self) -> None:
        Counted.alive -= 1


async def test_a_hundred_thousand_images_are_never_in_memory_together(server: ServerProcess) -> None:
    def images() -> Iterator[np.ndarray]:
        return (PIXELS[index % len(PIXELS)].view(Counted) for index in range(100_000))

    for client in (vaeport.Client(server.address), vaeport.AsyncClient(server.address)):
        Counted.most = 0
        found = await result_of(client.encode(images()))
        assert found.mean.shape == (100_000, 5)
        assert np.array_equal(found.mean[:1030], found.mean[1030:2060])
        assert Counted.most <= 6 * 256  # four chunks under way, one that is gathered
        await result_of(client.close())
