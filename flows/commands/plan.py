"""``soapworks plan``: what a run would do and cost."""

import sys
from typing import Any

import click

from soapworks.flows.commands.options import RunOptions, ScoreSettings, collect, with_request


@click.command()
@with_request
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@click.option("--quiet", is_flag=True, help="Show errors only.")
def plan(
    checkpoints: tuple[str, ...],
    model_list: str | None,
    images: str,
    architecture: str | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Tell what score would do with the same arguments; compute nothing, write nothing."""
    settings, options = collect(ScoreSettings, given), collect(RunOptions, given)
    from soapworks.flows.display.progress import showing_progress
    from soapworks.flows.display.tables import print_failures, print_projections
    from soapworks.flows.run_score import plan_run
    from soapworks.tasks.plan.models import models_of, read_model_list

    listed = read_model_list(model_list) if model_list else []
    models = models_of([*checkpoints, *listed], architecture)
    with showing_progress(quiet=quiet):
        projections, failures = plan_run(models, images, settings, options)
    print_projections(projections, as_json=as_json)
    print_failures(failures)
    if failures:
        sys.exit(1)
