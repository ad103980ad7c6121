"""``soapworks score``: the main job."""

import sys
from typing import Any

import click

from soapworks.flows.commands.options import (
    collect_request,
    engine_of,
    verbose_option,
    with_request,
)


@click.command()
@with_request
@verbose_option
def score(as_json: bool, quiet: bool, verbose: bool, **given: Any) -> None:
    """Score layers of checkpoints and make a SOAP head for each.

    A CHECKPOINT is a timm name with pretrained weights (vit_base_patch16_224.mae), a weights file
    (.safetensors, .pth, .pt, .bin; with --architecture), a folder in the Hugging Face form, or
    zoo:pocket_mim and zoo:pocket_supervised, which ship with soapworks. A checkpoint that fails
    does not stop the others; the exit status is then 1.
    """
    request = collect_request(given)
    from soapworks.flows.display.progress import showing_progress
    from soapworks.flows.display.tables import print_failures, print_summary
    from soapworks.flows.run_score import score as run

    with showing_progress(quiet=quiet):
        outcome = run(*request, engine=engine_of(quiet=quiet, verbose=verbose))
    print_summary(outcome.layers, as_json=as_json)
    print_failures(outcome.failures)
    if outcome.failures:
        sys.exit(1)
