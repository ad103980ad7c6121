"""``soapworks verify``: whether what is stored is still what was published."""

import os
import sys

import click


@click.command()
@click.argument("key", required=False)
@click.option("--store", default="store", show_default=True, help="A folder or s3://bucket/prefix.")
@click.option(
    "--repair",
    is_flag=True,
    help="Withdraw what is damaged, and make again what needs no forward pass.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", is_flag=True, help="Show results and errors only.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    show_default="one per core",
    help="Threads that read.",
)
def verify(
    key: str | None, store: str, repair: bool, as_json: bool, quiet: bool, workers: int
) -> None:
    """Read every byte in a store and name what is damaged or missing.

    KEY limits this to one product (its key, first digits, address or path) or to a kind of
    product (features, moments, ...). The exit status is 1 where damage is left.

    With --repair damaged products are withdrawn: the next run that needs one makes it again, from
    all of it that is whole. Moments, components, responses, scores and heads are made again at
    once where the products they are made from are there.
    """
    from soapworks.flows.display.progress import showing_progress
    from soapworks.flows.display.terminal import echo
    from soapworks.flows.display.verification import n_left, repair_lines, to_dict, told
    from soapworks.storage_schemas.store import Store
    from soapworks.tasks.maintenance.verify import verify as check
    from soapworks.tasks.settings import RunOptions

    place = Store(store)
    with showing_progress(quiet=quiet):
        found = check(place, key, workers=workers)
        repairs = None
        if repair:
            from soapworks.tasks.maintenance.repair import repair as mend

            memory = RunOptions().memory
            repairs = mend(place, found.damaged, memory=memory, workers=workers)
    left = n_left(found, repairs)
    if as_json:
        from soapworks.flows.display.tables import print_json

        print_json(to_dict(found, repairs) | {"left": left})
    else:
        for line in (*told(found), *repair_lines(found, repairs)):
            echo(line)
    if left:
        sys.exit(1)
