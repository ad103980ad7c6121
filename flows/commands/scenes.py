"""``soapworks scenes``: images to try things on."""

import click


@click.command()
@click.argument("folder")
@click.option("--n", default=640, show_default=True, help="Number of scenes.")
@click.option("--size", default=96, show_default=True, help="Side, pixels.")
@click.option(
    "--seed", default=1000, show_default=True, help="Seed; the zoo was trained on seeds below 100."
)
def scenes(folder: str, n: int, size: int, seed: int) -> None:
    """Write procedural scenes into FOLDER; those that are there already are left alone."""
    from soapworks.flows.display.terminal import echo
    from soapworks.zoo.scenes import write_scenes

    paths = write_scenes(folder, n, size=size, seed=seed)
    echo(f"{len(paths)} scenes of {size} x {size} pixels in {folder}")
