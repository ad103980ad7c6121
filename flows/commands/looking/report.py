"""``soapworks report``: a page per checkpoint, made from a store."""

from typing import TYPE_CHECKING

import click

from soapworks.flows.commands.options import comparison_option, quiet_option, store_option

if TYPE_CHECKING:
    import pandas as pd


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@store_option
@comparison_option
@click.option(
    "--components",
    type=click.IntRange(1, 64),
    default=8,
    show_default=True,
    help="Components that are shown of every layer.",
)
@click.option(
    "--output",
    metavar="ADDRESS",
    help="Write elsewhere: an .html file for one report, or a folder; a path or URL. By default "
    "below reports/ in the store.",
)
@quiet_option
def report(
    models: tuple[str, ...],
    store: str,
    comparison: str,
    components: int,
    output: str | None,
    quiet: bool,
) -> None:
    """Write an HTML page per checkpoint: scores by layer and rank, pictures of the top components.

    MODEL is a part of a checkpoint's or architecture's name, a pattern (*mae*), or the name of a
    report; all by default.
    A page holds everything it needs, and no script. What is printed are the pages' addresses.
    """
    from soapworks.flows.display.progress import showing_progress
    from soapworks.flows.display.terminal import echo
    from soapworks.storage_schemas.locations.location import Location
    from soapworks.storage_schemas.store import Store
    from soapworks.tasks.events import stage
    from soapworks.tasks.reports.leaderboard import read_leaderboard
    from soapworks.tasks.reports.page import make_page, publish_pages
    from soapworks.tasks.reports.ranking import filter_rows

    place = Store(store)
    with showing_progress(quiet=quiet):
        table = read_leaderboard(place)
        # A report may also be named itself, as those that differ in the head alone must be.
        chosen = table[table["page"].isin(models)]
        if chosen.empty:
            chosen = filter_rows(table, models=models, comparison=comparison, all_heads=True)
        names = pages_of(chosen, store)
        target = Location.parse(output) if output else None
        single = target is not None and target.name.lower().endswith(".html")
        if single:
            require_one(chosen, names)
        pages = []
        with stage("report", place.url, len(names), "pages") as advance:
            for name in names:
                pages.append(make_page(place, table, name, n=components, listed=not output))
                advance(1)
        if target is None:
            places = publish_pages(place, pages)
        else:
            places = [target if single else target / page.name for page in pages]
            for one, page in zip(places, pages, strict=True):
                one.write_bytes(page.html)
    for one in places:
        echo(one.url)


def pages_of(chosen: "pd.DataFrame", store: str) -> list[str]:
    """Return the names of the pages that rows of a leaderboard are on.

    Raises
    ------
    MissingProductError
        If there is none.
    """
    from soapworks.errors import MissingProductError

    names = list(dict.fromkeys(chosen["page"]))
    if not names:
        raise MissingProductError(
            f"there is nothing to report in {store}: soapworks leaderboard shows what is there."
        )
    return names


def require_one(chosen: "pd.DataFrame", names: list[str]) -> None:
    """Raise where one file is to hold several pages.

    Raises
    ------
    InputError
        With what there is to choose from.
    """
    from soapworks.errors import InputError

    if len(names) > 1:
        firsts = chosen.drop_duplicates("page").head(5)
        known = "; ".join(
            f"{one['page']}: {one['checkpoint']}, {one['suppression']}"
            for one in firsts.to_dict("records")
        )
        raise InputError(
            f"one file cannot hold {len(names)} reports ({known}): name one of them, or give a "
            "folder."
        )
