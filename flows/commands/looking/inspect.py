"""``soapworks ls`` and ``soapworks show``: what is in a store."""

import click

from soapworks.flows.commands.options import json_option, store_option
from soapworks.storage_schemas.layout.kinds import RECIPES


@click.command()
@click.argument("kind", required=False, type=click.Choice(list(RECIPES)))
@store_option
@json_option
def ls(kind: str | None, store: str, as_json: bool) -> None:
    """List the products in a store, all or of one KIND."""
    from soapworks.flows.display.tables import print_products
    from soapworks.storage_schemas.store import Store

    print_products(Store(store).products(kind), as_json=as_json)


@click.command()
@click.argument("key")
@store_option
@click.option("--top", default=10, show_default=True, help="Components of a score table to show.")
@json_option
def show(key: str, store: str, top: int, as_json: bool) -> None:
    """Show one product: recipe, facts, files and, of scores and heads, the best components.

    KEY is a product's key, its first digits (four or more), its address in the store, or its path.
    Score tables are printed whole as JSON.
    """
    from soapworks.flows.display.tables import print_product
    from soapworks.storage_schemas.store import Store

    print_product(Store(store).product(key), top=top, as_json=as_json)
