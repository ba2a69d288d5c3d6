"""`python -m training evaluate RUN`: measure a run on its data, print the measures, and keep them in its run.json."""

import json
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from training.batches import ordered
from training.config import ConfigError
from training.data import Dataset, load
from training.errors import DataError, RunError
from training.evaluation import Evaluation, evaluate_model
from training.loop import choose_device
from training.run import BEST, LAST, Run, locked, open_run

PROBE_IMAGES = 10_000  # to fit the linear probe on
SETTINGS = {
    "grey": "pixels between 0 and 1 as Bernoulli targets; compare with figures of that kind alone",
    "dynamic": "pixels drawn afresh each time (dynamic binarisation); compare with figures of that kind alone",
    "static": "pixels that are 0 or 1 for good (static binarisation); compare with figures on the same pixels alone",
    "threshold": "pixels cut at a half: another and easier data set than pixels that are drawn",
    "gaussian": "Gaussian densities of pixels in [0, 1], possibly positive; compare with figures of that kind alone",
}
NOT_A_LIKELIHOOD = "not a likelihood: targets between 0 and 1"


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """Measure a run on the images that it was not trained on."""

    run: tyro.conf.Positional[Path]
    """The run directory."""

    data: str = ""
    """Where the data of the run lie by now; without it, where they were. They must be the same."""

    test_data: str = ""
    """The same for those of --test-data."""

    samples: int = 0
    """Latents per image for the importance-weighted log-likelihood, 5000 in the papers; 0 leaves it out."""

    json: bool = False
    """Print JSON, not a table."""

    part: Literal["test", "train"] = "test"
    """The images to score."""

    last: bool = False
    """Take the weights of the last epoch, not those of the best."""

    grey_log_likelihood: bool = False
    """Give --samples its figure on pixels between 0 and 1, too, although it is no likelihood there."""

    images: int | None = None
    """Score only this many images, drawn with --seed, for a quick look."""

    seed: int = 0
    """Seed of the latents, and of the choice of --images. Binarised test images are the same at every evaluation."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes CUDA where there is a GPU."""

    def check(self) -> None:
        """Raise ConfigError for a number outside its range."""
        if self.samples < 0:
            raise ConfigError(f"--samples: expected 0 or more, got {self.samples}")
        if self.seed < 0:
            raise ConfigError(f"--seed: expected 0 or more, got {self.seed}")
        if self.images is not None and self.images < 1:
            raise ConfigError(f"--images: expected at least 1, got {self.images}")

    @property
    def lasting(self) -> bool:
        """Whether the run keeps the measures: they are those of its best weights on all its test images."""
        return self.part == "test" and not self.last and self.images is None


def evaluate_run(options: EvaluateOptions, data_root: Path) -> dict[str, Any]:
    """Measure a run, print the measures, and keep them in run.json under "evaluation" if they are lasting.

    Args:
        options: what to measure.
        data_root: where the named data sets lie.

    Returns:
        What was printed: the fields of `Evaluation`, and what they belong to.

    Raises:
        ConfigError: an option outside its range, or a log-likelihood where there is none.
        DataError: the data are not there, or cannot be read.
        RunError: the run cannot be read, or was made with other data.
    """
    options.check()
    run = open_run(options.run)
    run.check_finished()
    config = run.config
    if config.autoencoder and options.samples:
        raise ConfigError("--samples: the run is a plain autoencoder: it has no posterior, and so no log-likelihood")
    try:
        dataset = data_of(run, data_root, data=options.data, test_data=options.test_data)
    except DataError as error:
        raise DataError(f"{error} (if the data of the run have moved, --data and --test-data say where)") from error
    if setting_of(run) == "grey" and options.samples and not options.grey_log_likelihood:
        raise ConfigError(
            "--samples: the targets of this run are pixels between 0 and 1: importance weighting gives the likelihood "
            "of nothing; train with --binarization (static, if they are 0 and 1 already), or say --grey-log-likelihood "
            "to have the figure, labelled as such"
        )
    result = measure(run, dataset, options)
    print(json.dumps(result, indent=2) if options.json else table(result))
    if options.lasting:
        _keep(run.path, result)
    return result


def data_of(run: Run, data_root: Path, *, data: str = "", test_data: str = "") -> Dataset:
    """The data of a run, loaded again.

    Args:
        run: says which.
        data_root: where the named data sets lie.
        data, test_data: where the data lie by now, if they have moved.

    Raises:
        ConfigError: data to test on for a run that had none apart.
        DataError: they are not there, or cannot be read.
        RunError: they are other data now.
    """
    config = run.config
    if test_data and not config.test_data:
        raise ConfigError(f"--test-data: {run.path} was trained without it")
    moved = replace(config, data=data or config.data, test_data=test_data or config.test_data)
    dataset = load(moved, data_root)
    if dataset.digest != run.description["data"]["digest"]:
        raise RunError(f"{run.path}: {moved.data} is not what it was when the run was made: its digest differs")
    return dataset


def setting_of(run: Run) -> str:
    """Which of SETTINGS the run's figures belong to; "static" also if the data were 0 and 1 from the start."""
    if run.config.likelihood == "gaussian":
        return "gaussian"
    binarization: str = run.description["data"]["preprocessing"]["binarization"]
    return "grey" if binarization == "none" else binarization


def table(result: dict[str, Any]) -> str:
    """The measures for people; figures in nats per image."""
    rows = [("reconstruction", f"{result['reconstruction']:.2f}"), *_posterior_rows(result)]
    if likelihood := result["log_likelihood"]:
        error = "" if likelihood["standard_error"] is None else f" +- {likelihood['standard_error']:.2f}"
        label = f"  ({likelihood['label']})" if likelihood["label"] else ""
        rows.append((f"log-likelihood, {likelihood['samples']} samples", f"{likelihood['mean']:.2f}{error}{label}"))
    rows.append(("active units", f"{result['active_units']} (variance above {result['active_variance']:g})"))
    rows.append(("linear probe", _probe_text(result["linear_probe"])))
    width = max(len(name) for name, _ in rows)
    head = f"{result['run']}: {result['images']} {result['part']} images of {result['data']}, epoch {result['epoch']}"
    return "\n".join([head, SETTINGS[result["setting"]], *(f"  {name:<{width}}  {text}" for name, text in rows)])


def measure(run: Run, dataset: Dataset, options: EvaluateOptions) -> dict[str, Any]:
    """The measures, with what they belong to.

    Args:
        run: whose weights.
        dataset: the run's.
        options: what to measure.
    """
    setting = setting_of(run)
    weights = LAST if options.last else BEST
    model, metrics = run.load_model(weights)
    device = choose_device(options.device)
    images = dataset.test if options.part == "test" else dataset.train
    if options.images is not None:
        images = images.take(_some(len(images), options.images, options.seed))
    probed = dataset.train.take(_some(len(dataset.train), PROBE_IMAGES, options.seed))
    with tqdm(total=len(images), unit="image", disable=None) as bar:
        evaluation = evaluate_model(
            model.to(device),
            partial(ordered, images, dataset, device),
            labels=images.labels if options.part == "test" else None,
            train_batches=partial(ordered, probed, dataset, device),
            train_labels=probed.labels,
            samples=options.samples,
            seed=options.seed,
            autoencoder=run.config.autoencoder,
            progress=bar.update,
        )
    belongs_to = {
        "run": run.path.name,
        "data": dataset.name,
        "part": options.part,
        "setting": setting,
        "weights": weights,
        "epoch": metrics["epoch"],
        "seed": options.seed,
    }
    return belongs_to | _labelled(evaluation, setting)


def keep(run: Run, result: dict[str, Any]) -> None:
    """Put the measures into run.json; a log-likelihood that is there stays, if this one has none of these weights."""
    before = run.description.get("evaluation")
    if before and before["epoch"] == result["epoch"] and result["log_likelihood"] is None:
        result = {**result, "log_likelihood": before["log_likelihood"]}
    run.describe(evaluation=result)


def _some(count: int, most: int, seed: int) -> NDArray[np.int64]:
    """Indices of `most` images or fewer: not the first, since a folder is sorted by label."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


def _labelled(evaluation: Evaluation, setting: str) -> dict[str, Any]:
    """The evaluation as plain values, with a `label` that says if the log-likelihood is not one."""
    values = evaluation.to_json()
    if values["log_likelihood"]:
        values["log_likelihood"]["label"] = NOT_A_LIKELIHOOD if setting == "grey" else None
    return values


def _keep(path: Path, result: dict[str, Any]) -> None:
    """Into run.json, as it is by now. If that cannot be, say so: the measures are printed already."""
    try:
        with locked(path):
            run = open_run(path)
            best = (run.description["best"] or {}).get("epoch")
            if best != result["epoch"]:
                raise RunError(f"{path}: its best epoch is {best} in run.json")
            keep(run, result)
    except (RunError, OSError) as error:
        print(f"not kept in run.json: {error}", file=sys.stderr)


def _posterior_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    if result["elbo"] is None:
        return [("ELBO and KL", "none: a plain autoencoder has no posterior")]
    aggregate, quantiles = result["aggregate"], result["elbo_quantiles"]
    return [
        ("KL", f"{result['kl']:.2f}"),
        ("KL per latent", " ".join(f"{kl:.2f}" for kl in result["kl_per_latent"])),
        ("ELBO", f"{result['elbo']:.2f}"),
        ("ELBO of 5%, half, 95%", " ".join(f"{quantiles[level]:.2f}" for level in ("0.05", "0.5", "0.95"))),
        ("mutual information", f"{aggregate['mutual_information']:.2f} (at most {np.log(aggregate['images']):.2f})"),
        ("KL of aggregate posterior", f"{aggregate['kl']:.2f}"),
    ]


def _probe_text(probe: dict[str, Any]) -> str:
    if probe["accuracy"] is None:
        return f"none: {probe['reason']}"
    return f"{probe['accuracy']:.1%} of labels right (most frequent label: {probe['chance']:.1%})"
