"""The model card: Hugging Face reads it, its code runs, and it tells whether images of the data are inside."""

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard, metadata_load
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import vaeport
from export.card import model_card
from export.pictures import COLUMNS, MAX_BYTES, ROWS, SEED, Sheet, png, reconstructed
from export.pipeline import export_run
from export.verify import verify
from training.run import open_run
from vaeport.golden import read_golden
from vaeport.manifest import Manifest
from vaeport.package import open_package

PNG_CHUNK_AT = 8  # after the signature


@pytest.fixture(scope="module")
def manifest(package: Path) -> Manifest:
    return open_package(package).manifest


@pytest.fixture(scope="module")
def with_images(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with all images of the data that one can ask for."""
    to = tmp_path_factory.mktemp("with-images") / "digits"
    return export_run(digits_run, to, formats=["onnx"], card_images=True, golden_images=True)


def chunks(data: bytes) -> set[bytes]:
    """The kinds of chunks in a PNG."""
    found, at = set(), PNG_CHUNK_AT
    while at < len(data):
        found.add(data[at + 4 : at + 8])
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return found


def shown(card: str) -> list[str]:
    return re.findall(r"!\[[^]]+\]\(([^)]+)\)", card)


def named(manifest: Manifest, name: str) -> Manifest:
    """The same with another name of the data."""
    data = {**manifest.training["data"], "name": name}
    return replace(manifest, training={**manifest.training, "data": data})


def test_hugging_face_s_parser_reads_the_card(package: Path, manifest: Manifest) -> None:
    card = ModelCard.load(package / "README.md")
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"]) == ("vaeport", "unconditional-image-generation")
    assert "onnx" in data["tags"]
    assert "license" not in data
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.dataset_split) == ("digits", "test")
    assert result.metric_type == "negative_elbo"
    assert result.metric_value == pytest.approx(manifest.training["metrics"]["test_loss"], abs=0.005)
    assert card.text.lstrip().startswith("# digits, version 1")


def test_the_negative_elbo_is_no_bound_of_several_draws(manifest: Manifest, tmp_path: Path) -> None:
    """As the test loss of a run that minimised IWAE's is."""
    metrics = {**manifest.training["metrics"], "test_loss": 85.0, "test_reconstruction": 66.25, "test_kl": 21.5}
    text = model_card(replace(manifest, training={**manifest.training, "metrics": metrics}))
    (tmp_path / "README.md").write_text(text)
    metadata: Any = metadata_load(tmp_path / "README.md")
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == 87.75
    assert "| negative ELBO, test | 87.75 nats per image |" in text
    assert "85.00" not in text


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(st.characters(), max_size=20))
def test_a_data_set_of_any_name_gives_a_card_that_is_read_back(manifest: Manifest, tmp_path: Path, name: str) -> None:
    path = tmp_path / "README.md"
    path.write_text(model_card(named(manifest, name)), encoding="utf-8")
    metadata: Any = metadata_load(path)
    assert metadata["model-index"][0]["results"][0]["dataset"]["name"] == name
    row = next(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("| data |"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3  # it stays one cell


def test_the_code_of_the_card_runs(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(package.parents[1])
    blocks = re.findall(r"```python\n(.*?)```", (package / "README.md").read_text(), re.DOTALL)
    results = []
    for block in blocks:
        namespace: dict[str, Any] = {}
        exec(block, namespace)  # noqa: S102 - our own page
        results.append(namespace["images"].shape)
    assert results == [(16, 1, 8, 8)] * 2


def test_the_pictures_are_shown_small_and_nothing_but_pictures(package: Path) -> None:
    assert shown((package / "README.md").read_text()) == ["samples.png", "traversals.png"]
    assert sorted(path.name for path in package.glob("*.png")) == ["samples.png", "traversals.png"]
    for path in package.glob("*.png"):
        data = path.read_bytes()
        assert len(data) <= MAX_BYTES
        assert chunks(data) == {b"IHDR", b"IDAT", b"IEND"}  # no time, no name of a program
        with Image.open(path) as picture:
            picture.load()
            assert min(picture.size) > 100


def test_the_samples_are_those_that_the_package_draws(package: Path) -> None:
    drawn = vaeport.load(package).sample(ROWS * COLUMNS, seed=SEED).reshape(ROWS, COLUMNS, 1, 8, 8)
    with (
        Image.open(io.BytesIO(png(Sheet(drawn)))) as expected,
        Image.open(package / "samples.png") as found,
    ):
        difference = np.asarray(expected, np.int16) - np.asarray(found, np.int16)
        assert np.abs(difference).max() <= 1  # another runtime, another rounding


def test_without_being_asked_no_image_of_the_data_is_inside(package: Path, digits_run: Path) -> None:
    manifest = open_package(package).manifest
    assert manifest.training["images_inside"] == []
    assert "No image of the data" in (package / "README.md").read_text()
    rows = read_golden(open_package(package))["encoder"].rows
    heldout = open_run(digits_run).heldout()
    assert not any(np.array_equal(row, image) for row in rows[1:] for image in heldout)


def test_images_that_were_asked_for_are_inside_and_the_card_says_so(with_images: Path, digits_run: Path) -> None:
    package = open_package(with_images)
    assert package.manifest.training["images_inside"] == ["reconstructions.png", "golden.safetensors"]
    card = (with_images / "README.md").read_text()
    assert shown(card) == ["samples.png", "traversals.png", "reconstructions.png"]
    assert "**Images of the data are in this package**: in `reconstructions.png` and `golden.safetensors`" in card
    assert "No image of the data" not in card
    rows = read_golden(package)["encoder"].rows
    assert np.array_equal(rows, open_run(digits_run).heldout()[: len(rows)])


def test_golden_vectors_of_real_images_are_replayed_and_verified(with_images: Path) -> None:
    assert vaeport.load(with_images, self_test=True).latent_dim == 5
    assert not verify(with_images).failed


@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 6, 4), (1, 200, 100), (3, 300, 300), (1, 1, 500)])
def test_any_picture_stays_under_its_limit(shape: tuple[int, int, int]) -> None:
    noise = np.random.default_rng(0).random((ROWS, COLUMNS, *shape), np.float32)
    data = png(Sheet(noise, ("a name",) * ROWS))
    assert len(data) <= MAX_BYTES
    with Image.open(io.BytesIO(data)) as picture:
        assert max(picture.size) < 700


@pytest.mark.parametrize(("images", "rows", "columns"), [(1, 2, 1), (5, 2, 5), (12, 2, 8), (64, 8, 8)])
def test_reconstructions_need_not_fill_their_rows(digits_run: Path, images: int, rows: int, columns: int) -> None:
    model, _ = open_run(digits_run).load_model()
    heldout = open_run(digits_run).heldout()[:images]
    sheet = reconstructed(model, heldout)
    assert sheet.images.shape == (rows, columns, 1, 8, 8)
    assert np.array_equal(sheet.images[0], heldout[:columns])
    assert len(sheet.names) == rows
