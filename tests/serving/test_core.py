"""What each call means, with toy models and no transport."""

import asyncio
import weakref
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from serving.batching import Batched, Batcher
from serving.batching.delivery import Rows
from serving.core import Core
from serving.results import Decoded, Scored
from tests.serving.toys import IMAGE_SHAPE, LATENT_DIM, decode, toy_model
from tests.serving.waiting import until
from tests.support import BAD_SCORE_NUMBERS
from vaeport import scoring
from vaeport.errors import DeadlineExceededError, InvalidInputError, NotFoundError, OverloadedError
from vaeport.prior import standard_normal


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    core = Core([toy_model()], max_request_rows=10)
    yield core
    await core.close()


@pytest.fixture
async def two() -> AsyncIterator[Core]:
    core = Core([toy_model("a"), toy_model("b", 7)], max_request_rows=10)
    yield core
    await core.close()


def images(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).random((rows, *IMAGE_SHAPE), np.float32)


async def test_encode_gives_the_posterior_and_no_draw_without_a_seed(core: Core) -> None:
    sent = images(7)
    encoded = await core.encode("", "", sent)
    assert np.array_equal(encoded.mean, sent.reshape(7, 6)[:, [0, 5]])
    assert np.array_equal(encoded.log_var, -encoded.mean)
    assert encoded.latents is None
    assert (encoded.model.name, encoded.model.version) == ("toy", "3")
    assert encoded.timings.batch_rows == 4


async def test_encode_with_a_seed_draws_from_the_posterior_whatever_the_piece(core: Core) -> None:
    sent = images(6)
    whole = await core.encode("", "", sent, seed=5, first_row=2)
    piece = await core.encode("", "", sent[4:], seed=5, first_row=6)
    assert whole.latents is not None
    assert piece.latents is not None
    epsilon = standard_normal(5, 2, 6, LATENT_DIM)
    np.testing.assert_allclose(whole.latents, whole.mean + np.exp(whole.log_var / 2) * epsilon, rtol=1e-6)
    assert np.array_equal(piece.latents, whole.latents[4:])


async def test_sample_returns_its_latents_and_the_seed_it_drew(core: Core) -> None:
    sampled = await core.sample("", "", 3, seed=None, first_row=0, temperature=0.5)
    again = await core.sample("", "", 3, seed=sampled.seed, first_row=0, temperature=0.5)
    assert np.array_equal(sampled.images, again.images)
    assert np.array_equal(sampled.latents, standard_normal(sampled.seed, 0, 3, LATENT_DIM) * np.float32(0.5))


async def test_reconstruct_decodes_the_mean_and_adds_up_the_time(core: Core) -> None:
    sent = images(2)
    decoded = await core.reconstruct("", "", sent)
    mean = (await core.encode("", "", sent)).mean
    assert np.array_equal(decoded.images, (await core.decode("", "", mean)).images)
    assert decoded.timings.compute_seconds > 0


async def test_the_same_seed_gives_the_same_samples_whatever_else_runs(core: Core) -> None:
    alone = (await core.sample("", "", 5, seed=1, first_row=0, temperature=1.0)).images
    noise = [core.sample("", "", n % 9 + 1, seed=n, first_row=0, temperature=1.0) for n in range(50)]
    crowd = await asyncio.gather(*noise, core.sample("", "", 5, seed=1, first_row=0, temperature=1.0))
    assert np.array_equal(crowd[-1].images, alone)


async def test_an_empty_model_is_the_only_one_or_the_default_one(two: Core) -> None:
    with pytest.raises(InvalidInputError, match="model: expected one of a, b, got no name"):
        await two.encode("", "", images(1))
    assert (await two.encode("b", "", images(1))).model.version == "7"
    default = Core([toy_model("a"), toy_model("b")], max_request_rows=10, default_model="b")
    assert (await default.encode("", "", images(1))).model.name == "b"
    await default.close()


async def test_a_default_model_that_is_not_there_is_found_out_at_the_start() -> None:
    model = toy_model("a")
    with pytest.raises(NotFoundError, match="no model 'c' here; there is a"):
        Core([model], max_request_rows=10, default_model="c")
    await model.encoder.close()
    await model.decoder.close()


@pytest.mark.parametrize(
    ("model", "version", "message"),
    [
        ("c", "", "model: no model 'c' here; there is a, b"),
        ("a", "9", "version: no version '9' of model 'a' here; there is 3"),
        ("a", "03", "no version '03'"),
        ("a", "newest", "no version 'newest'"),
    ],
)
async def test_an_unknown_model_or_version_names_what_there_is(
    two: Core, model: str, version: str, message: str
) -> None:
    for call in (
        two.encode(model, version, images(1)),
        two.decode(model, version, np.zeros((1, 2), np.float32)),
        two.reconstruct(model, version, images(1)),
        two.sample(model, version, 1, seed=1, first_row=0, temperature=1.0),
    ):
        with pytest.raises(NotFoundError, match=message):
            await call
    with pytest.raises(NotFoundError, match=message):
        two.info(model, version)


async def test_info_lists_all_models_or_the_one_named(two: Core) -> None:
    assert [model.name for model in two.info("", "")] == ["a", "b"]
    assert [model.name for model in two.info("b", "7")] == ["b"]


async def test_more_rows_than_a_request_may_have_are_refused(core: Core) -> None:
    for call, field in (
        (core.encode("", "", images(11)), "images"),
        (core.reconstruct("", "", images(11)), "images"),
        (core.decode("", "", np.zeros((11, 2), np.float32)), "latents"),
        (core.sample("", "", 11, seed=1, first_row=0, temperature=1.0), "count"),
    ):
        with pytest.raises(InvalidInputError, match=f"{field}: expected at most 10 rows, got 11 rows"):
            await call


async def test_one_deadline_holds_for_all_stages_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float | None] = []
    submit = Batcher.submit

    async def recorded(self: Batcher, rows: Rows, deadline: float | None = None) -> Batched:
        seen.append(deadline)
        return await submit(self, rows, deadline)

    monkeypatch.setattr(Batcher, "submit", recorded)
    core = Core([toy_model()], max_request_rows=10)
    deadline = asyncio.get_running_loop().time() + 60
    await core.reconstruct("", "", images(1), deadline)
    assert seen == [deadline, deadline]
    await core.encode("", "", images(1), deadline=deadline)
    await core.decode("", "", np.zeros((1, 2), np.float32), deadline)
    await core.sample("", "", 1, seed=1, first_row=0, temperature=1.0, deadline=deadline)
    assert seen == [deadline] * 5
    with pytest.raises(DeadlineExceededError):
        await core.reconstruct("", "", images(1), deadline - 120)
    await core.close()


@pytest.mark.parametrize(("numbers", "text"), BAD_SCORE_NUMBERS)
async def test_a_score_is_refused_before_images_are_encoded(core: Core, numbers: Any, text: str) -> None:
    await core.close()
    whole = {"importance_samples": 1, "seed": None, "first_row": 0, **numbers}
    with pytest.raises(InvalidInputError, match=text):
        await core.score("", "", images(2), **whole)


@pytest.mark.parametrize(("normals", "samples"), [(1 << 22, 65_536 // 3 + 1), (64, 11), (5, 1)])
async def test_draws_that_are_too_many_for_one_request_are_refused(
    core: Core, monkeypatch: pytest.MonkeyPatch, normals: int, samples: int
) -> None:
    monkeypatch.setattr(scoring, "MAX_NORMALS", normals)
    text = f"importance_samples: expected at most {scoring.max_latents(2)} for all 3 images together, got {samples} for"
    with pytest.raises(InvalidInputError, match=text):
        await core.score("", "", images(3), importance_samples=samples, seed=1, first_row=0)
    if samples > 1:
        await core.score("", "", images(3), importance_samples=samples - 1, seed=1, first_row=0)


async def test_a_full_queue_refuses_a_score_of_one_part_and_delays_one_that_has_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = toy_model()
    core = Core([model], max_request_rows=2)
    expected = (await core.score("", "", images(2), importance_samples=3, seed=1, first_row=0)).scores
    submit, full = model.decoder.submit, [True, False, True, True, False, True, False]

    async def sometimes_full(rows: Rows, deadline: float | None = None) -> Batched:
        if full.pop(0):
            raise OverloadedError("full", retry_after=0.0)
        return await submit(rows, deadline)

    monkeypatch.setattr(model.decoder, "submit", sometimes_full)
    found = (await core.score("", "", images(2), importance_samples=3, seed=1, first_row=0)).scores
    assert not full
    assert np.array_equal(found.log_likelihood, expected.log_likelihood)
    full.append(True)
    with pytest.raises(OverloadedError):
        await core.score("", "", images(2), importance_samples=1, seed=1, first_row=0)
    await core.close()


async def test_a_score_keeps_no_part_that_it_has_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_model()
    core = Core([model], max_request_rows=2)
    submit, parts = model.decoder.submit, list[Any]()

    async def witnessed(rows: Rows, deadline: float | None = None) -> Batched:
        assert len([part for part in parts if part() is not None]) <= 2
        batched = await submit(rows, deadline)
        parts.append(weakref.ref(batched.outputs[1]))
        return batched

    monkeypatch.setattr(model.decoder, "submit", witnessed)
    await core.score("", "", images(2), importance_samples=10, seed=1, first_row=0)
    assert len(parts) == 10
    await core.close()


def held_decoder() -> tuple[Core, Batcher, list[int], asyncio.Event]:
    """A core whose decoder computes while it may, its decoder, and the rows of each batch that this has begun with."""
    may_compute, began = asyncio.Event(), list[int]()

    async def held(pieces: Sequence[Rows]) -> tuple[Rows, ...]:
        began.append(sum(map(len, pieces)))
        await may_compute.wait()
        return await decode(pieces)

    model = toy_model(max_queue_rows=8, decode=held)
    return Core([model], max_request_rows=4), model.decoder, began, may_compute


async def test_scores_of_many_parts_take_turns_and_leave_the_gate_when_cancelled() -> None:
    core, decoder, began, may_compute = held_decoder()
    score = partial(core.score, "", "", images(1), importance_samples=12, seed=1, first_row=0)
    calls = [asyncio.create_task(score()) for _ in range(20)]
    await until(lambda: began == [4])
    assert decoder.queued_rows == 0  # the others have given it nothing yet
    assert core._gates["toy"].rows == 20 * 12
    for call in calls[:10]:
        call.cancel()
    await until(lambda: core._gates["toy"].rows == 10 * 12)
    may_compute.set()
    answers = await asyncio.gather(*calls[10:])
    assert all(np.array_equal(each.scores.elbo, answers[0].scores.elbo) for each in answers)
    assert (core._gates["toy"].rows, core._gates["toy"].bytes) == (0, 0)
    await core.close()


async def test_a_score_whose_turn_cannot_come_in_time_is_refused_at_its_deadline() -> None:
    core, _, began, may_compute = held_decoder()
    score = partial(core.score, "", "", images(1), importance_samples=12, seed=1, first_row=0)
    first = asyncio.create_task(score())
    await until(lambda: began == [4])
    with pytest.raises(DeadlineExceededError, match="before 12 rows had their turn"):
        await score(deadline=asyncio.get_running_loop().time() + 0.01)
    may_compute.set()
    await first
    await core.close()


async def test_more_scores_than_are_promised_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.core.MAX_PROMISED_LATENTS", 30)
    core, _, _, may_compute = held_decoder()
    score = partial(core.score, "", "", images(1), importance_samples=12, seed=1, first_row=0)
    calls = [asyncio.create_task(score()) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match="24 rows are promised") as refused:
        await score()
    assert refused.value.retry_after is not None
    may_compute.set()
    await asyncio.gather(*calls)
    await core.close()


async def test_what_the_decoder_has_no_room_or_time_for_is_refused_before_it_is_encoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core, decoder, began, may_compute = held_decoder()
    latents = np.zeros((4, LATENT_DIM), np.float32)
    calls = [asyncio.create_task(core.decode("", "", latents))]
    await until(lambda: began == [4])
    calls += [asyncio.create_task(core.decode("", "", latents)) for _ in range(2)]
    await until(lambda: decoder.queued_rows == 8)

    async def encoded(*_: object) -> Batched:
        raise AssertionError("images were encoded")

    with monkeypatch.context() as patch:
        patch.setattr(core._models["toy"].encoder, "submit", encoded)
        for call in (core.reconstruct("", "", images(1)), score_of_one_part(core)):
            with pytest.raises(OverloadedError, match="8 rows wait"):
                await call
        calls[2].cancel()
        await until(lambda: decoder.queued_rows == 4)
        patch.setattr(decoder, "_predict", lambda rows, now: rows)
        deadline = asyncio.get_running_loop().time() + 5
        for call in (core.reconstruct("", "", images(2), deadline), score_of_one_part(core, deadline)):
            with pytest.raises(DeadlineExceededError, match="after 4 that wait"):
                await call
    may_compute.set()
    await asyncio.gather(*calls, return_exceptions=True)
    await core.close()


async def score_of_one_part(core: Core, deadline: float | None = None) -> Scored:
    return await core.score("", "", images(1), importance_samples=2, seed=1, first_row=0, deadline=deadline)


async def test_latents_that_overflow_the_decoder_are_refused_by_row_and_harm_no_neighbour() -> None:
    async def overflowing(pieces: Sequence[Rows]) -> tuple[Rows, ...]:
        image, logits = await decode([piece.clip(-20, 20) for piece in pieces])
        image[np.abs(np.concatenate(pieces)).max(1) > 1e4] = np.nan
        return image, logits

    core = Core([toy_model(decode=overflowing)], max_request_rows=10)
    latents = np.zeros((3, LATENT_DIM), np.float32)
    huge = latents.copy()
    huge[1] = 1e38
    neighbour, guilty = await asyncio.gather(
        core.decode("", "", latents), core.decode("", "", huge), return_exceptions=True
    )
    assert isinstance(neighbour, Decoded)
    assert np.array_equal(neighbour.images, np.full((3, *IMAGE_SHAPE), 0.5, np.float32))
    assert isinstance(guilty, InvalidInputError)
    assert str(guilty) == "latents: expected values that the decoder can compute, got NaN in image 1"
    with pytest.raises(InvalidInputError, match="temperature: expected values that the decoder can compute"):
        await core.sample("", "", 1, seed=1, first_row=0, temperature=1e6)
    await core.close()
