"""``soapworks verify``: whether what is stored is still what was published."""

import sys

import click

from soapworks.flows.commands.options import (
    json_option,
    quiet_option,
    store_option,
    workers_option,
)


@click.command()
@click.argument("key", required=False)
@store_option
@click.option(
    "--repair",
    is_flag=True,
    help="Withdraw what is damaged, and make again what needs no forward pass.",
)
@json_option
@quiet_option
@workers_option
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
    from soapworks.flows.display.verification import n_left, repair_lines, summary_lines, to_dict
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
        for line in (*summary_lines(found), *repair_lines(found, repairs)):
            echo(line)
    if left:
        sys.exit(1)
