"""``hamnet info``: what a model is, and what it may be used for."""

import typer

from hamnet_cli.common import Json, Model, Quiet, note, print_json


def info(model: Model, quiet: Quiet = False, json: Json = False) -> None:
    """Print a model's card: level of theory, elements, training data, errors.

    Example: hamnet info runs/water
    """
    from hamnet.models import load_model
    from hamnet.models.card import model_card
    from hamnet.models.files import model_file

    metadata = load_model(model).metadata
    if not quiet:
        file = model_file(model)
        note(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    if json:
        print_json(metadata.model_dump(mode="json"))
    else:
        typer.echo(model_card(metadata), nl=False)
