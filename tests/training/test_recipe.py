"""Recipes: settings from a file, which the command line overrides."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tyro

from training.__main__ import train_and_report
from training.config import Config, ConfigError
from training.recipe import expected, expected_samples, overridden, recipe_settings, with_recipe
from training.report import compared
from training.run import open_run

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


def parse(*arguments: str) -> Config:
    return tyro.cli(Config, args=with_recipe(arguments))


def test_a_recipe_sets_and_the_command_line_wins(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('[settings]\ndata = "mnist"\nhidden_dims = [20, 30]\nautoencoder = true\nlr = 0.5\nseed = 3\n')
    config = parse("--recipe", str(recipe), "--lr", "0.25", "--no-autoencoder", "--hidden-dims", "7")
    assert (config.data, config.hidden_dims, config.autoencoder, config.lr, config.seed) == (
        "mnist",
        (7,),
        False,
        0.25,
        3,
    )
    assert parse(f"--recipe={recipe}").hidden_dims == (20, 30)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[settings]\ncolour = 1\n", "unknown settings: colour"),
        ("[settings]\nresume = true\n", "unknown settings: resume"),
        ("[model]\n", "unknown tables: model"),
        ("no toml", "cannot be read"),
        ("settings = 3\n", "settings: expected a table, got 3"),
        ("expected = 3\n", "expected: expected a table, got 3"),
        ("[expected]\nkl = 3\n", r"expected\.kl: expected \[from, to\], got 3"),
        ("[expected]\nkl = [1, 'b']\n", r"expected\.kl: expected \[from, to\]"),
        ("[expected]\nkl = ['a', 'b']\n", r"expected\.kl: expected \[from, to\]"),
        ("[expected]\nkl = [2, 1]\n", r"expected\.kl: expected \[from, to\]"),
        ("[expected]\nsamples = 0\n", r"expected\.samples: expected a number from 1, got 0"),
    ],
)
def test_a_broken_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        parse("--recipe", str(tmp_path / "r.toml"))


def test_a_recipe_names_the_run() -> None:
    assert Config("mnist", recipe=Path("recipes/iwae-k5.toml")).with_default_run().run == Path("runs/iwae-k5")
    assert Config("mnist", recipe=Path("x.toml"), run=Path("mine")).with_default_run().run == Path("mine")
    assert Config("mnist").with_default_run().run == Path("runs/mnist")


def test_a_missing_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        parse("--recipe", str(tmp_path / "none.toml"))


def test_expected_numbers_are_ranges(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[expected]\ntrain_loss = [103, 105.5]\n")
    assert expected(tmp_path / "r.toml") == {"train_loss": (103.0, 105.5)}
    (tmp_path / "r.toml").write_text("[expected]\ntrain_loss = [105, 103]\n")
    with pytest.raises(ConfigError, match=r"expected\.train_loss: expected \[from, to\]"):
        expected(tmp_path / "r.toml")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_a_valid_run_with_expected_numbers(path: Path) -> None:
    parse("--recipe", str(path)).check()
    assert expected(path) or path.stem == "conv-colour"  # which says that it has none


def test_the_recipes_are_those_that_were_promised() -> None:
    assert {"tutorial", "iwae-k50", "ppca", "conv-mnist", "conv-colour", "static-mnist"} <= {p.stem for p in RECIPES}


def test_a_recipe_says_of_how_many_samples_its_log_likelihood_is(tmp_path: Path) -> None:
    for text, samples in (("", 5000), ("[expected]\nsamples = 200\nlog_likelihood = [-2, -1]\n", 200)):
        (tmp_path / "r.toml").write_text(text)
        assert expected_samples(tmp_path / "r.toml") == samples
        assert "samples" not in expected(tmp_path / "r.toml")


def test_an_expectation_that_nothing_measures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[expected]\ntrain_losss = [1, 2]\n")
    with pytest.raises(ConfigError, match="expected: unknown: train_losss; known: active_units"):
        expected(tmp_path / "r.toml")


def test_what_came_is_compared_with_what_was_expected(digits_run: Path, tmp_path: Path) -> None:
    run = open_run(Path(shutil.copytree(digits_run, tmp_path / "run")))
    loss = run.description["last"]["train_loss"]
    run.describe(expected={"train_loss": [loss - 1, loss + 1], "kl": [-2, -1], "log_likelihood": [-90, -80]})
    fits, misses, unknown = compared(run)
    assert fits == f"expected train_loss from {loss - 1:g} to {loss + 1:g}: {loss:.2f}, as expected"
    assert misses.endswith("NOT as expected")
    assert unknown.endswith("not measured yet: evaluate --samples 5000 compares")


def test_a_log_likelihood_is_compared_with_that_of_as_many_samples(digits_run: Path, tmp_path: Path) -> None:
    run = open_run(Path(shutil.copytree(digits_run, tmp_path / "run")))
    run.describe(expected={"log_likelihood": [-90, -80]}, expected_samples=200)
    (unknown,) = compared(run)
    assert unknown.endswith("not measured yet: evaluate --samples 200 compares")
    for samples, verdict in ((200, "-85.00, as expected"), (5000, "-85.00 with 5000 samples: evaluate --samples 200")):
        likelihood = {"mean": -85.0, "standard_error": 0.1, "samples": samples, "label": None}
        run.describe(evaluation={**run.description["evaluation"], "log_likelihood": likelihood})
        assert f"expected log_likelihood from -90 to -80: {verdict}" in compared(run)[0]


def test_a_recipe_is_not_compared_with_when_its_settings_are_replaced(digits_run: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[settings]\nlr = 1e-3\nepochs = 5\nhidden_dims = [3]\nwarmup_epochs = 2\n")
    recipe = ["--recipe", str(tmp_path / "r.toml")]
    same = parse(*recipe, "--lr", "0.001", "--seed", "3", "--device", "cpu", "--run", "elsewhere")
    assert overridden(recipe_settings(tmp_path / "r.toml"), same) == []
    other = parse(*recipe, "--epochs", "2", "--beta", "4")
    assert overridden(recipe_settings(tmp_path / "r.toml"), other) == ["--beta", "--epochs"]
    run = open_run(Path(shutil.copytree(digits_run, tmp_path / "run")))
    run.describe(expected={"train_loss": [1, 2]}, overridden=["--beta", "--epochs"])
    assert compared(run) == ["not compared with the numbers of the recipe, which has other values of --beta, --epochs"]


def test_a_run_resumed_without_its_recipe_for_more_epochs_is_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.set_flush_denormal", lambda _: True)  # for the whole process
    settings = '[settings]\ndata = "digits"\nepochs = 1\nhidden_dims = [8]\nlatent_dim = 2\n'
    (tmp_path / "r.toml").write_text(settings + "[expected]\ntrain_loss = [0, 1000]\n")
    first = parse("--recipe", str(tmp_path / "r.toml"), "--run", str(tmp_path / "run"), "--device", "cpu")
    train_and_report(first, tmp_path)
    assert "as expected" in compared(open_run(first.run))[0]
    longer = replace(first, recipe=None, epochs=2, resume=True)
    train_and_report(longer, tmp_path)
    (line,) = compared(open_run(first.run))
    assert line == "not compared with the numbers of the recipe, which has other values of --epochs"
