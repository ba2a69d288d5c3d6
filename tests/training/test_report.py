"""report.md: what a finished run says of itself."""

import shutil
from pathlib import Path

import pytest

from training.report import write_report
from training.run import Run, open_run
from training.schedules import Plan


@pytest.fixture
def run(digits_run: Path, tmp_path: Path) -> Run:
    """A run to describe otherwise: 13 steps an epoch."""
    return open_run(Path(shutil.copytree(digits_run, tmp_path / "run")))


def report_of(run: Run) -> str:
    write_report(run, Plan(run.config, 13), [])
    return (run.path / "report.md").read_text()


def test_what_is_minimised_has_a_row_where_it_is_not_the_bound(run: Run) -> None:
    assert "test: what was minimised" not in report_of(run)
    best = {**run.description["best"], "test_objective": 77.77}
    run.describe(best=best)
    assert "| test: what was minimised | 77.77 |" in report_of(run)


def test_a_short_run_without_an_active_latent_is_warned_of(run: Run) -> None:
    run.describe(best={**run.description["best"], "epoch": 2, "active_units": 0})
    assert "**Warning:** 0 of 5 latents active after only 26 steps: too short, or collapsed" in report_of(run)
    run.describe(best={**run.description["best"], "active_units": 1})
    assert "Warning" not in report_of(run)


def test_the_report_of_an_autoencoder_has_nothing_about_a_kl(run: Run) -> None:
    assert "| test: KL |" in report_of(run)
    assert "The KL divergence rises" in report_of(run)
    none = {"elbo": None, "kl": None, "log_likelihood": None}
    run.describe(
        config={**run.description["config"], "autoencoder": True},
        evaluation={**run.description["evaluation"], **none},
    )
    pictures = [run.path / "plots" / f"{name}.png" for name in ("reconstructions", "traversals", "latents", "losses")]
    write_report(run, Plan(run.config, 13), pictures)
    lines = (run.path / "report.md").read_text().splitlines()
    about = [line for line in lines if "KL" in line or "ELBO" in line or "posterior" in line]
    assert about == ["      ELBO and KL     none: a plain autoencoder has no posterior"]
    assert "*The reconstruction, epoch by epoch; it is all that is minimised.*" in lines
