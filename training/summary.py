"""Completes a finished run: measures of its best weights, pictures, a report, and a comparison with expectations."""

import sys
from pathlib import Path

import tyro

from training import plots, report
from training.config import Config
from training.data import Dataset
from training.evaluate import EvaluateOptions, evaluate_run, keep, measure
from training.loop import early_stop
from training.recipe import expected, expected_samples, overridden, recipe_settings
from training.run import Metrics, Run, open_run
from training.schedules import Plan


def finish(run: Run, config: Config, dataset: Dataset, plan: Plan, rows: list[Metrics]) -> None:
    """Measure, draw and report the run, and print where the results are.

    Args:
        run, config, dataset, plan: those of the training.
        rows: the rows of metrics.jsonl.
    """
    reason = early_stop(plan, rows)
    if reason:
        print(reason)
    run.describe(stopped=reason)
    keep(run, measure(run, dataset, EvaluateOptions(run.path, device=config.device)))
    if config.recipe is not None:
        run.describe(
            expected=expected(config.recipe),
            expected_samples=expected_samples(config.recipe),
            recipe_settings=recipe_settings(config.recipe),
        )
    if "recipe_settings" in run.description:  # of an earlier start, maybe, which had fewer epochs
        run.describe(overridden=overridden(run.description["recipe_settings"], config))
    model, _ = run.load_model()
    pictures = plots.plot_run(run, model, dataset, rows)
    report.write_report(run, plan, pictures)
    for line in report.compared(run):
        print(line)
    print(f"wrote {run.path}: checkpoint.safetensors (epoch {run.description['best']['epoch']}), report.md, plots")
    if warning := report.collapse_of(run, plan):
        print(f"training: warning: {warning}", file=sys.stderr)


def evaluate_command(arguments: list[str], data_root: Path) -> None:
    """What comes after `python -m training evaluate`: the measures, and on standard error how they fit the recipe.

    Raises:
        TrainingError: what the user can mend.
    """
    options = tyro.cli(EvaluateOptions, prog="python -m training evaluate", args=arguments)
    evaluate_run(options, data_root)
    if options.lasting:
        for line in report.compared(open_run(options.run)):
            print(line, file=sys.stderr)
