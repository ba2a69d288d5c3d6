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
