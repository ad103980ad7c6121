"""``soapworks plan``: what a run would do and cost."""

from typing import Any

import click

from flows.options import RunOptions, ScoreSettings, collect, with_request


@click.command()
@with_request
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@click.option("--quiet", is_flag=True, help="Show errors only.")
def plan(
    checkpoints: tuple[str, ...],
    images: str,
    architecture: str | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Tell what score would do with the same arguments; compute nothing, write nothing."""
    settings, options = collect(ScoreSettings, given), collect(RunOptions, given)
    from flows.printing import print_projections
    from flows.progress import showing_progress
    from flows.run import plan_run

    with showing_progress(quiet=quiet):
        plans = plan_run(checkpoints, images, architecture, settings, options)
    print_projections([projection for _, projection in plans], as_json=as_json)
