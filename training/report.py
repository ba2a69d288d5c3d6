"""report.md: a run at a glance."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.alarms import collapse_warning, unused_warning
from training.evaluate import SETTINGS, setting_of, table
from training.files import write_atomically
from training.recipe import PUBLISHED_SAMPLES
from training.run import Metrics, Run
from training.schedules import Plan

NAMES = {
    "train_loss": "training: loss, which was minimised",
    "reconstruction": "training: reconstruction",
    "kl": "training: KL",
    "test_loss": "test: {bound}",
    "test_objective": "test: what was minimised",
    "test_reconstruction": "test: reconstruction",
    "test_kl": "test: KL",
    "active_units": "test: active units (latents in use)",
    "sigma": "sigma of a pixel",
}
CAPTIONS = {
    "reconstructions": "Held-out images, each above what the model makes of its posterior mean.",
    "samples": "Images decoded from latents of the prior.",
    "traversals": "What each active latent does, the others staying where they are for one held-out image.",
    "kl_per_latent": "How much each latent is used; those in grey are not.",
    "latents": "Where the posteriors of held-out images lie in the latent space.",
    "losses": "The negative ELBO and its terms, epoch by epoch; what was minimised, where that is something else.",
    "interpolations": "The way between two held-out images, along a line in the latent space.",
    "latent_grid": "The plane of the two latents, decoded.",
}
KL_RISES = "The KL divergence rises while the latents come into use: that is learning, not a fault."
DRAWN_AGAIN = (
    "Measures of the best weights on the test images. Their latents are drawn again, so reconstruction and",
    "ELBO differ a little from the table's:",
)
AUTOENCODER_CAPTIONS = {
    "losses": "The reconstruction, epoch by epoch; it is all that is minimised.",
    "traversals": "What each code does within three standard deviations of its mean, the others staying at theirs.",
    "latents": "Where the codes of held-out images lie in the latent space.",
    "reconstructions": "Held-out images, each above what the model makes of its code.",
}


def write_report(run: Run, plan: Plan, pictures: list[Path]) -> None:
    """Write report.md: the numbers of the best and the last epoch, the measures, the pictures, and how to do it again.

    Args:
        run: with its evaluation.
        plan: of its schedules.
        pictures: inside its directory.
    """
    autoencoder = run.config.autoencoder
    sections = (
        _head(run),
        [f"**Warning:** {warning}"] if (warning := collapse_of(run, plan)) else [],
        [run.description["stopped"]] if run.description.get("stopped") else [],
        list(_losses(run)),
        [] if autoencoder else [KL_RISES],
        compared(run),
        [
            *(["Measures of the best weights on the test images:"] if autoencoder else DRAWN_AGAIN),
            "",
            *(f"    {line}" for line in table(run.description["evaluation"]).split("\n")),
        ],
        *(_picture(path, run) for path in pictures),
        ["The same run once more:", "", f"    {_program(run)} training {shlex.join(run.config.arguments())}"],
        [f"Commit of the code: {run.description['git_commit']}"] if run.description["git_commit"] else [],
    )
    text = "\n\n".join("\n".join(section) for section in sections if section)
    write_atomically(run.path / "report.md", f"{text}\n".encode(errors="backslashreplace"))


def compared(run: Run) -> list[str]:
    """A line per number that the recipe expects: what came, in the last epoch or the evaluation, and if it fits.

    One line that says why, where settings of the recipe were replaced.
    """
    expected, replaced = run.description.get("expected", {}), run.description.get("overridden")
    if expected and replaced:
        return [f"not compared with the numbers of the recipe, which has other values of {', '.join(replaced)}"]
    lines = []
    for name, (low, high) in expected.items():
        value = _found(run, name)
        if value is None or (name == "log_likelihood" and _samples(run) != _expected_samples(run)):
            found = "not measured yet" if value is None else f"{value:.2f} with {_samples(run)} samples"
            hint = f"evaluate --samples {_expected_samples(run)} compares"
            lines.append(f"expected {name} from {low:g} to {high:g}: {found}: {hint}")
        else:
            verdict = "as expected" if low <= value <= high else "NOT as expected"
            lines.append(f"expected {name} from {low:g} to {high:g}: {value:.2f}, {verdict}")
    return lines


def collapse_of(run: Run, plan: Plan) -> str | None:
    """The warning about the best weights, if their posterior has collapsed, or may have."""
    best = run.description["best"]
    steps = best["epoch"] * plan.steps_per_epoch
    return collapse_warning(best, plan.config, steps) or unused_warning(best, plan.config, steps)


def _head(run: Run) -> list[str]:
    data, config = run.description["data"], run.config
    kind = "A plain autoencoder" if config.autoencoder else "A variational autoencoder"
    shape = "x".join(map(str, run.image_shape))
    return [
        f"# Run {run.path.name}",
        "",
        f"{kind} ({config.network}, {config.likelihood} likelihood) with {config.latent_dim} latent dimensions,",
        f"trained on {data['train']} images of {data['name']} ({shape}), tested on {data['test']}.",
        "",
        "Numbers are in nats per image, summed over pixels and latents. They are of",
        f"{SETTINGS[setting_of(run)]}.",
    ]


def _losses(run: Run) -> Iterator[str]:
    best, last = run.description["best"], run.description["last"]
    absent = {"kl", "test_kl"} if run.config.autoencoder else set()
    yield f"| nats per image | best weights (epoch {best['epoch']}) | last weights (epoch {last['epoch']}) |"
    yield "|---|---|---|"
    for key, name in NAMES.items():
        if key in best and key not in absent and (key != "test_objective" or _judged_apart(best, last)):
            digits = {"active_units": 0, "sigma": 4}.get(key, 2)
            yield f"| {name.format(bound=_bound(run))} | {best[key]:.{digits}f} | {last[key]:.{digits}f} |"


def _bound(run: Run) -> str:
    """What the test loss is."""
    config = run.config
    if config.autoencoder:
        return "loss, the reconstruction alone"
    if config.objective == "elbo":
        return "negative ELBO"
    return f"negative importance-weighted bound, {config.importance_samples} draws"


def _picture(path: Path, run: Run) -> list[str]:
    captions = CAPTIONS | AUTOENCODER_CAPTIONS if run.config.autoencoder else CAPTIONS
    caption = captions[path.stem]
    return [f"![{path.stem}]({path.relative_to(run.path).as_posix()})", "", f"*{caption}*"]


def _judged_apart(best: Metrics, last: Metrics) -> bool:
    """Whether what is minimised is something else than the bound, on the test images."""
    return any(row["test_objective"] != row["test_loss"] for row in (best, last))


def _expected_samples(run: Run) -> int:
    return int(run.description.get("expected_samples", PUBLISHED_SAMPLES))


def _program(run: Run) -> str:
    """What runs a module, in as many processes as the run had."""
    processes = run.description.get("processes", 1)
    return "python -m" if processes == 1 else f"torchrun --nproc-per-node {processes} -m --"


def _samples(run: Run) -> int | None:
    """The samples per image of the measured log-likelihood; None if there is none."""
    likelihood = (run.description.get("evaluation") or {}).get("log_likelihood")
    return likelihood["samples"] if likelihood else None


def _found(run: Run, name: str) -> float | None:
    """A number of the last epoch, or of the evaluation."""
    last, evaluation = run.description["last"], run.description.get("evaluation") or {}
    value: Any = last.get(name, evaluation.get(name))
    if isinstance(value, dict):  # a mean with its error
        value = value["mean"]
    return None if value is None else float(value)
