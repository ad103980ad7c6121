"""``soapworks watch``: score checkpoints as they arrive."""

import sys
from typing import Any

import click

from soapworks.flows.commands.options import (
    architecture_option,
    collect,
    engine_of,
    images_option,
    json_option,
    quiet_option,
    verbose_option,
    with_options,
)
from soapworks.tasks.settings import RunOptions, ScoreSettings, WatchOptions


@click.command()
@click.argument("folder")
@images_option
@architecture_option
@click.option("--once", is_flag=True, help="Do one round and end; exit status 1 if one failed.")
@with_options(WatchOptions)
@with_options(ScoreSettings)
@with_options(RunOptions)
@json_option
@quiet_option
@verbose_option
def watch(
    folder: str,
    images: str,
    architecture: str | None,
    once: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **given: Any,
) -> None:
    """Score checkpoints as they arrive in FOLDER (a path or URL), each once, until Ctrl-C.

    At any depth, weights files (.safetensors, .pth, .pt, .bin, .ckpt) and folders in the Hugging
    Face form (with model.safetensors or pytorch_model.bin) count; hidden and temporary names
    (.tmp, .part, ~), symbolic links and trainers' other files (optimizer.pt, rng_state*.pth,
    training_args.bin) do not. A checkpoint is scored once two listings found it
    unchanged, or at once where NAME.done lies beside it, written after it.

    Each is scored in a process of its own, abandoned after --stall-seconds without progress. A
    failure is retried after a pause that doubles; an error of the checkpoint itself (another
    architecture) once more only; a file without a backbone is ignored. A changed file starts
    afresh, and so does everything with --retry. The state of every checkpoint is kept in the store
    below watch/, so a watch that was stopped or killed goes on, and several may watch the same
    folder.

    Checkpoints that are named by a step (step_1000.safetensors, checkpoint-1000/, epoch_3.pth)
    make a curve, SI against step: a picture and a table in the store below watch/.

    --json needs --once.
    """
    watching = collect(WatchOptions, given)
    settings, options = collect(ScoreSettings, given), collect(RunOptions, given)
    if as_json and not once:
        raise click.UsageError("--json needs --once.")
    from soapworks.flows.display.progress import showing_progress
    from soapworks.flows.display.tables import print_failures, print_json
    from soapworks.flows.run_watch import keep_watching, watch_once
    from soapworks.tasks.watch.state import Watch

    asked = Watch.of(folder, images, architecture, settings, options, watching)
    engine = engine_of(quiet=quiet, verbose=verbose)
    with showing_progress(quiet=quiet):
        if not once:
            keep_watching(asked, engine=engine)
            return
        outcomes = watch_once(asked, engine=engine)
    if as_json:
        print_json(outcomes)
    failures = {o["checkpoint"]: o["why"] for o in outcomes if o["outcome"] == "failed"}
    print_failures(failures)
    sys.exit(1 if failures else 0)
