"""``hamnet info``: what a model is, and what it may be used for."""

from pathlib import Path
from typing import Annotated

import typer

from hamnet_cli.common import Json, print_json


def info(
    model: Annotated[Path, typer.Argument(help="Folder of a training run, or a model file.")],
    json: Json = False,
) -> None:
    """Print a model's card: level of theory, elements, training data, errors.

    Example: hamnet info runs/water
    """
    from hamnet.models import load_model
    from hamnet.models.card import model_card

    metadata = load_model(model).metadata
    if json:
        print_json(metadata.model_dump(mode="json"))
    else:
        typer.echo(model_card(metadata), nl=False)
