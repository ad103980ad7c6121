"""``soapworks plan``: what a run would do and cost."""

import sys
from typing import Any

import click

from soapworks.flows.commands.options import collect_request, with_request


@click.command()
@with_request
def plan(as_json: bool, quiet: bool, **given: Any) -> None:
    """Report what score would do with the same arguments; compute nothing, write nothing."""
    request = collect_request(given)
    from soapworks.flows.display.progress import showing_progress
    from soapworks.flows.display.tables import print_failures, print_projections
    from soapworks.flows.run_score import plan_run

    with showing_progress(quiet=quiet):
        projections, failures = plan_run(*request)
    print_projections(projections, as_json=as_json)
    print_failures(failures)
    if failures:
        sys.exit(1)
