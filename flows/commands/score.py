"""``soapworks score``: the main job."""

import sys
from functools import partial
from typing import Any

import click

from soapworks.flows.commands.options import RunOptions, ScoreSettings, collect, with_request


@click.command()
@with_request
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.option("--quiet", is_flag=True, help="Show errors only.")
@click.option("--verbose", is_flag=True, help="Show the workflow engine's log as well.")
def score(
    checkpoints: tuple[str, ...],
    model_list: str | None,
    images: str,
    architecture: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **given: Any,
) -> None:
    """Score layers of checkpoints and make a SOAP head for each.

    A CHECKPOINT is a timm name with pretrained weights (vit_base_patch16_224.mae), a weights file
    (.safetensors, .pth, .pt, .bin; with --architecture), a folder in the Hugging Face form, or
    zoo:pocket_mim and zoo:pocket_supervised, which ship with soapworks. A checkpoint that fails
    does not stop the others; the exit status is then 1.
    """
    settings, options = collect(ScoreSettings, given), collect(RunOptions, given)
    from soapworks.flows.display.progress import showing_progress
    from soapworks.flows.display.tables import print_failures, print_summary
    from soapworks.flows.engine.session import orchestrated
    from soapworks.flows.run_score import score as run
    from soapworks.tasks.plan.models import models_of, read_model_list

    listed = read_model_list(model_list) if model_list else []
    with showing_progress(quiet=quiet):
        outcome = run(
            models_of([*checkpoints, *listed], architecture),
            images,
            settings,
            options,
            engine=partial(orchestrated, quiet=quiet, verbose=verbose or "--debug" in sys.argv),
        )
    print_summary(outcome.layers, as_json=as_json)
    print_failures(outcome.failures)
    if outcome.failures:
        sys.exit(1)
