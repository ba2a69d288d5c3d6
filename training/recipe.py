"""Recipes: TOML files with the settings of a run, and the numbers it should reach.

[settings]                       # names and values of training.config.Config
data = "mnist"

[expected]                       # of the last epoch (metrics.jsonl) or of the evaluation: from, to
train_loss = [103.3, 105.3]
samples = 200                    # latents per image of an expected log_likelihood; 5000 if absent
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.config import Config, ConfigError, config_from_json, flag, words

FLAG = "--recipe"
SAMPLES = "samples"
PUBLISHED_SAMPLES = 5000  # latents per image, where papers and recipes say nothing else
OF_NO_WEIGHT = frozenset({"run", "device", "seed"})  # settings with which the numbers of a recipe should still come
# What can be expected: numbers of the last epoch, and of the evaluation.
EXPECTABLE = frozenset(
    {"train_loss", "reconstruction", "kl", "test_loss", "test_reconstruction", "test_kl", "active_units", "sigma"}
) | {"elbo", "log_likelihood"}


def with_recipe(arguments: Sequence[str]) -> list[str]:
    """The command line with the settings of its --recipe, if it has one, put before the rest, which therefore wins.

    Raises:
        ConfigError: the file is missing, no TOML, or has a name that is no setting, a value of another type, or an
            expectation that is no range.
    """
    path = _path_in(arguments)
    if path is None:
        return list(arguments)
    settings = _read(path)["settings"]
    config_from_json(settings, str(path))  # raises for what is no setting, or none of its values
    expected(path)  # looked at when the run is over: better to hear now that it is broken
    return [word for name, value in settings.items() for word in words(name, value)] + list(arguments)


def expected(path: Path) -> dict[str, tuple[float, float]]:
    """The numbers of a recipe: by name, from and to.

    Raises:
        ConfigError: the file is missing, no TOML, has a name that is not EXPECTABLE, or a number is not two.
    """
    expected_samples(path)
    ranges = {name: value for name, value in _read(path)["expected"].items() if name != SAMPLES}
    if unknown := sorted(ranges.keys() - EXPECTABLE):
        raise ConfigError(f"{path}: expected: unknown: {', '.join(unknown)}; known: {', '.join(sorted(EXPECTABLE))}")
    for name, value in ranges.items():
        if not _is_range(value):
            raise ConfigError(f"{path}: expected.{name}: expected [from, to], got {value!r}")
    return {name: (float(low), float(high)) for name, (low, high) in ranges.items()}


def expected_samples(path: Path) -> int:
    """Latents per image that the log-likelihood of a recipe is expected with; ConfigError for what is no number."""
    samples = _read(path)["expected"].get(SAMPLES, PUBLISHED_SAMPLES)
    if type(samples) is not int or samples < 1:
        raise ConfigError(f"{path}: expected.{SAMPLES}: expected a number from 1, got {samples!r}")
    return samples


def recipe_settings(path: Path) -> dict[str, Any]:
    """The settings that a recipe names, as they stand in it; ConfigError for a file that cannot be read."""
    settings: dict[str, Any] = _read(path)["settings"]
    return settings


def overridden(settings: dict[str, Any], config: Config) -> list[str]:
    """The flags of `config` that are not as the recipe has them in its `settings`: its numbers need not come then."""
    recipe, own = config_from_json(settings, FLAG).to_json(), config.to_json()
    return [flag(name) for name, value in own.items() if value != recipe[name] and name not in OF_NO_WEIGHT]


def _path_in(arguments: Sequence[str]) -> Path | None:
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word == FLAG and following:
            return Path(following)
        if word.startswith(f"{FLAG}="):
            return Path(word.removeprefix(f"{FLAG}="))
    return None


def _is_range(value: object) -> bool:
    if not (isinstance(value, list) and len(value) == 2):
        return False
    return all(type(number) in (int, float) for number in value) and value[0] <= value[1]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{FLAG} {path}: cannot be read: {error}") from error
    if unknown := sorted(content.keys() - {"settings", "expected"}):
        raise ConfigError(f"{path}: unknown tables: {', '.join(unknown)}")
    for name, value in content.items():
        if not isinstance(value, dict):
            raise ConfigError(f"{path}: {name}: expected a table, got {value!r}")
    return {"settings": {}, "expected": {}, **content}
