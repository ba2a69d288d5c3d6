"""One hand-made bad package per rule: each is refused with the error of that rule."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vaeport
from vaeport import package as rules
from vaeport.errors import PackageError
from vaeport.package import open_package


def quantiles(value: object) -> Callable[[dict[str, Any]], object]:
    """Puts other figures in a manifest, to compare scores with."""
    return lambda manifest: manifest["training"]["evaluation"].update(elbo_quantiles=value)


def hidden_dims(value: object) -> Callable[[dict[str, Any]], object]:
    """Puts other layers in a manifest."""
    return lambda manifest: manifest["training"]["network"].update(hidden_dims=value)


PRECISION = {"target": "cpu", "elbo_change": 0.1, "elbo_limit": 1.0, "image_change": 0.1, "speed_measured": True}


@pytest.fixture
def copy(package: Path, tmp_path: Path) -> Path:
    """A valid package to break."""
    return Path(shutil.copytree(package, tmp_path / "package"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest."""
    path = folder / "manifest.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def entry(value: dict[str, Any], path: str) -> dict[str, Any]:
    found: dict[str, Any] = next(e for e in value["files"] if e["path"] == path)
    return found


def test_the_valid_package_is_accepted(copy: Path) -> None:
    opened = open_package(copy)
    assert (opened.manifest.name, opened.manifest.version) == ("digits", 1)
    assert opened.digest.startswith("sha256:")


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v["training"].pop("evaluation"),
        lambda v: v["training"].update(evaluation=None),
        lambda v: v["training"]["evaluation"].pop("elbo_quantiles"),
        quantiles(None),
        quantiles({}),
        quantiles({"min": -9, "0.25": -8, "0.5": -8, "max": 1e308}),
    ],
)
def test_figures_to_compare_scores_with_may_be_missing(copy: Path, change: Callable[[dict[str, Any]], object]) -> None:
    edit(copy, change)
    vaeport.load(copy).score(np.zeros((8, 8), np.uint8))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(rules.NotAPackageError, match="no such folder"):
        open_package(tmp_path / "nothing")


def test_a_folder_without_a_manifest_is_refused(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    with pytest.raises(rules.NotAPackageError, match=r"manifest\.json is missing"):
        open_package(copy)


def test_a_manifest_over_its_cap_is_refused(copy: Path) -> None:
    with (copy / "manifest.json").open("ab") as file:
        file.write(b" " * rules.MANIFEST_MAX_BYTES)
    with pytest.raises(rules.ManifestTooLargeError):
        open_package(copy)


def test_a_manifest_that_is_not_json_is_refused(copy: Path) -> None:
    (copy / "manifest.json").write_text("{")
    with pytest.raises(rules.ManifestInvalidError, match="not JSON"):
        open_package(copy)


def test_a_manifest_that_repeats_a_key_is_refused(copy: Path) -> None:
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text.replace('"version": 1', '"version": 2, "version": 1'))
    with pytest.raises(rules.ManifestInvalidError, match="the same key twice"):
        open_package(copy)


@pytest.mark.parametrize("scale", ["1e999", "NaN", "-Infinity"])
def test_a_manifest_with_a_number_that_is_not_finite_is_refused(copy: Path, scale: str) -> None:
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text.replace('"scale": 16.0', f'"scale": {scale}'))
    with pytest.raises(rules.ManifestInvalidError, match="is not a finite number"):
        open_package(copy)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_manifest_that_is_not_utf_8_is_refused(copy: Path, encoding: str) -> None:
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text, encoding=encoding)
    with pytest.raises(rules.ManifestInvalidError, match="not JSON"):
        open_package(copy)


@pytest.mark.parametrize("change", [lambda v: v.pop("format"), lambda v: v.update(format="vaeport/2")])
def test_a_missing_or_unknown_format_is_refused(copy: Path, change: Callable[[dict[str, Any]], object]) -> None:
    edit(copy, change)
    with pytest.raises(rules.UnknownFormatError, match="expected 'vaeport/1'"):
        open_package(copy)


def test_a_later_format_is_said_to_need_a_newer_reader(copy: Path) -> None:
    edit(copy, lambda v: v.update(format="vaeport/2"))
    with pytest.raises(rules.UnknownFormatError, match=f"got 'vaeport/2'; a vaeport newer than {vaeport.__version__}"):
        open_package(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("model"), "missing model"),
        (lambda v: v.update(extra=1), "unknown extra"),
        (lambda v: v.update(version=True), "manifest.version: expected int, got True"),
        (lambda v: v.update(version=0), "manifest.version: expected 1 to 999999999, got 0"),
        (lambda v: v.update(name="../up"), "manifest.name"),
        (lambda v: v["model"].update(image_shape=[1, 8]), r"manifest.model.image_shape: expected 3 items, got 2"),
        (lambda v: v.pop("files"), "missing files"),
        (lambda v: v["model"].update(latent_dim=0), "sizes must be positive and at most 65536"),
        (lambda v: v["model"].update(latent_dim=10**30), "sizes must be positive and at most 65536"),
        (lambda v: v["model"].update(latent_dim=9), "inputs and outputs are not those of manifest.model"),
        (lambda v: v["graphs"]["encoder"]["outputs"].reverse(), "graphs.encoder: inputs and outputs are not"),
        (lambda v: v["graphs"]["decoder"].update(inputs=[]), "graphs.decoder: inputs and outputs are not"),
        (lambda v: v["preprocessing"].update(channels=3), r"gives \(3, 8, 8\), the model takes \(1, 8, 8\)"),
        (lambda v: v["preprocessing"].update(scale=10**400), "manifest.preprocessing.scale: expected float"),
        (lambda v: v["model"].update(likelihood="poisson"), "manifest.model.likelihood: expected one of"),
        (lambda v: v["preprocessing"].update(scale=0.0), "scale: must be positive"),
        (lambda v: v["preprocessing"].update(crop="left"), "manifest.preprocessing.crop: expected one of"),
        (lambda v: v["preprocessing"].pop("scale"), "manifest.preprocessing: missing scale"),
        (lambda v: v["model"].update(sigma=0.5), "sigma: expected null for a bernoulli likelihood, got 0.5"),
        (lambda v: v["model"].update(likelihood="gaussian"), r"sigma: expected 0.001 to 1e\+06 for a gaussian"),
        (lambda v: v["model"].update(likelihood="gaussian", sigma=1e-300), "sigma: expected .* got 1e-300"),
        (lambda v: v["model"].update(likelihood="gaussian", sigma=1e300), r"sigma: expected .* got 1e\+300"),
        (
            lambda v: v["model"].update(likelihood="gaussian", sigma=0.1),
            "graphs.decoder: inputs and outputs are not those of manifest.model",
        ),
        (lambda v: v["graphs"].pop("decoder"), r"manifest.graphs: expected \['decoder', 'decoder.uint8', .*got"),
        (lambda v: v["graphs"].pop("decoder.uint8"), r"manifest.graphs: expected \['decoder', 'decoder.uint8', .*got"),
        (lambda v: v["graphs"].update({"encoder.int8": v["graphs"]["encoder"]}), r"got \[.*'encoder.int8'"),
        (lambda v: v["precisions"].update(int8=PRECISION), r"manifest.graphs: expected \[.*'decoder.int8'"),
        (lambda v: v["precisions"].update(bf16=PRECISION), "manifest.precisions: expected fp16, int8, got bf16"),
        (lambda v: v["precisions"].update(int8={**PRECISION, "target": "tpu"}), "precisions.int8.target: expected one"),
        (lambda v: v["graphs"]["decoder"].update(path="none.onnx"), "is not in manifest.files"),
        (lambda v: v["files"].reverse(), "sorted and unique"),
        (lambda v: v["files"].append(v["files"][-1]), "sorted and unique"),
        (lambda v: v.update(files=None), "manifest.files: expected an array"),
        (lambda v: v["training"].update(evaluation=[]), r"training.evaluation: expected an object or null, got \[\]"),
        (
            lambda v: v["training"].update(evaluation=False),
            "training.evaluation: expected an object or null, got False",
        ),
        (lambda v: v["model"].update(image_shape=[1, 65536, 65536]), "image_shape: expected at most 4194304 elements"),
        (lambda v: v["training"].update(network=[]), r"training.network: expected an object or null, got \[\]"),
        (hidden_dims([1] * 80_000), "hidden_dims: expected at most 128 widths, got 80000 of them"),
        (hidden_dims("abc"), "hidden_dims: expected at most 128 widths, got 'abc'"),
        (hidden_dims([8, 0]), "hidden_dims: expected widths of 1 to 65536, got 0"),
        (hidden_dims([2**40]), "hidden_dims: expected widths of 1 to 65536, got 1099511627776"),
        (hidden_dims([True]), "hidden_dims: expected widths of 1 to 65536, got True"),
        (quantiles([]), r"training.evaluation.elbo_quantiles: expected an object or null, got \[\]"),
        (quantiles({"abc": 1.0}), "elbo_quantiles: expected levels min, max or 0 to 1, got 'abc'"),
        (quantiles({"1.5": 1.0}), "elbo_quantiles: expected levels min, max or 0 to 1, got '1.5'"),
        (quantiles({"-0": 1.0}), "elbo_quantiles: expected levels min, max or 0 to 1, got '-0'"),
        (quantiles({"nan": 1.0}), "elbo_quantiles: expected levels min, max or 0 to 1, got 'nan'"),
        (quantiles({"0.5\n": 1.0}), "elbo_quantiles: expected levels min, max or 0 to 1, got"),
        (quantiles({"0.5": "1"}), "elbo_quantiles.0.5: expected a finite number, got '1'"),
        (quantiles({"max": True}), "elbo_quantiles.max: expected a finite number, got True"),
        (quantiles({"min": 0.0, "0": 1.0}), "elbo_quantiles: expected each level once, got 0 twice"),
        (quantiles({"0.5": 0, "0.50": 0}), "elbo_quantiles: expected each level once, got 0.5 twice"),
        (quantiles({"max": 1.0, "0.5": 2}), "expected numbers that do not fall, got 2 at 0.5 and 1.0 at 1"),
        (quantiles({"min": 10**400}), "elbo_quantiles.min: expected a finite number, got 1000"),
    ],
)
def test_a_field_missing_unknown_mistyped_or_out_of_range(
    copy: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(copy, change)
    with pytest.raises(rules.ManifestInvalidError, match=message):
        open_package(copy)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../secret", "a/../b", "./a", "a//b", "", ".", "a\\b", "manifest.json"]
)
def test_a_path_that_does_not_stay_inside(copy: Path, path: str) -> None:
    def add(value: dict[str, Any]) -> None:
        value["files"].append({"path": path, "size": 0, "sha256": ""})
        value["files"].sort(key=lambda e: e["path"])

    edit(copy, add)
    with pytest.raises(rules.UnsafePathError):
        open_package(copy)


@pytest.mark.parametrize("name", ["encoder.onnx", "manifest.json"])
def test_a_symbolic_link_is_refused(copy: Path, name: str) -> None:
    (copy / name).rename(copy.parent / name)
    (copy / name).symlink_to(copy.parent / name)
    with pytest.raises(rules.SymlinkError):
        open_package(copy)


def test_a_pipe_in_place_of_the_manifest_is_refused(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    os.mkfifo(copy / "manifest.json")
    with pytest.raises(rules.SymlinkError):
        open_package(copy)


def test_a_folder_that_cannot_be_read_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PackageError, match=f"{copy}: cannot be read: not yours"):
        open_package(copy)


def test_a_linked_folder_is_not_entered(copy: Path, tmp_path: Path) -> None:
    (copy / "folder").symlink_to(tmp_path)
    with pytest.raises(rules.SymlinkError):
        open_package(copy)


def test_a_pipe_is_not_read(copy: Path) -> None:
    os.mkfifo(copy / "pipe")
    with pytest.raises(rules.SymlinkError):
        open_package(copy)


def test_an_unlisted_file_is_refused(copy: Path) -> None:
    (copy / "sub").mkdir()
    (copy / "sub" / "extra.bin").write_bytes(b"1")
    with pytest.raises(rules.UnlistedFileError, match=r"sub/extra\.bin"):
        open_package(copy)


def test_a_missing_file_is_refused(copy: Path) -> None:
    (copy / "README.md").unlink()
    with pytest.raises(rules.MissingFileError, match=r"README\.md"):
        open_package(copy)


def test_a_file_of_another_size_is_refused(copy: Path) -> None:
    with (copy / "README.md").open("a") as file:
        file.write("more")
    with pytest.raises(rules.SizeMismatchError, match=r"README\.md: expected \d+ bytes"):
        open_package(copy)


def test_a_file_with_one_other_bit_is_refused(copy: Path) -> None:
    data = bytearray((copy / "encoder.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "encoder.onnx").write_bytes(data)
    with pytest.raises(rules.DigestMismatchError, match=r"encoder\.onnx: expected sha256"):
        open_package(copy)


def test_the_cheapest_rule_comes_first(copy: Path) -> None:
    edit(copy, lambda v: (v.update(format="other"), entry(v, "README.md").update(size=1)))
    (copy / "extra").write_text("")
    with pytest.raises(rules.UnknownFormatError):
        open_package(copy)


@pytest.mark.parametrize("place", ["digits/7", "others/1", "7/2"])
def test_a_folder_that_says_another_name_or_version(package: Path, tmp_path: Path, place: str) -> None:
    folder = Path(shutil.copytree(package, tmp_path / place))
    with pytest.raises(rules.MisplacedPackageError, match=f"{place}: holds version 1 of 'digits'; a package keeps its"):
        open_package(folder)


def test_a_folder_that_says_another_version_however_one_gets_there(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "7").symlink_to(package)
    for path in (tmp_path / "digits" / "7", tmp_path / "digits" / ".." / "digits" / "7" / "torchscript" / ".."):
        with pytest.raises(rules.MisplacedPackageError):
            open_package(path)
    shutil.copytree(package, tmp_path / "digits" / "8")
    monkeypatch.chdir(tmp_path / "digits" / "8")
    with pytest.raises(rules.MisplacedPackageError):
        open_package(".")


@pytest.mark.parametrize("place", ["copy", "digits/01", "digits/current", "others/v7", "1.old"])
def test_a_folder_whose_name_is_no_version_says_nothing(package: Path, tmp_path: Path, place: str) -> None:
    folder = Path(shutil.copytree(package, tmp_path / place))
    assert open_package(folder).manifest.version == 1


@pytest.mark.parametrize(
    "paths", [("a", "A"), ("d/x", "D/y"), ("d/x", "D"), ("\u00e9", "e\u0301"), ("e\u0301",), ("\ufb01", "fi")]
)
def test_a_path_that_a_file_system_takes_for_another(copy: Path, paths: tuple[str, ...]) -> None:
    def add(value: dict[str, Any]) -> None:
        value["files"] += [{"path": path, "size": 0, "sha256": ""} for path in paths]
        value["files"].sort(key=lambda e: e["path"])

    edit(copy, add)
    with pytest.raises(rules.AmbiguousPathError, match=r"files: a file system may take '[ -~]*' for '[ -~]*'$"):
        open_package(copy)


@pytest.mark.parametrize("name", ["\x1b[31mred", "new\nline", "\u202egnp.exe", "\udcff"])
def test_a_file_name_cannot_rule_the_terminal(copy: Path, name: str) -> None:
    (copy / name).write_text("")
    with pytest.raises(rules.UnlistedFileError) as unlisted:
        open_package(copy)
    (copy / name).unlink()
    (copy / name).symlink_to("README.md")
    with pytest.raises(rules.SymlinkError) as linked:
        open_package(copy)
    (copy / name).unlink()
    edit(copy, lambda v: v["files"].append({"path": name, "size": 0, "sha256": ""}))
    edit(copy, lambda v: v["files"].sort(key=lambda e: e["path"]))
    with pytest.raises(rules.MissingFileError) as missing:
        open_package(copy)
    for caught in (unlisted, linked, missing):
        assert str(caught.value).isprintable()
        assert name.encode("unicode_escape").decode() in str(caught.value)


def test_every_rule_has_an_error_of_its_own() -> None:
    errors = [value for value in vars(rules).values() if isinstance(value, type) and value.__name__.endswith("Error")]
    assert rules.__doc__ is not None
    drawn = [error.__name__ for error in errors if error.__name__ in rules.__doc__]
    assert len(drawn) == 15  # PackageError and its fourteen rules
