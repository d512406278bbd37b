"""``hamnet select``: the frames whose labels would teach a model most."""

from pathlib import Path
from typing import Annotated

import typer

from hamnet_cli.common import (
    Charge,
    Json,
    Model,
    Quiet,
    Spin,
    complain,
    note,
    print_json,
    print_table,
    progress,
)

PER_CHOSEN = 5
"""Frames looked at for each that is chosen. Chosen from thirteen instead of five, frames of ethanol
leave an error of H that is 4 % larger."""


def select(
    model: Model,
    pool: Annotated[
        list[Path], typer.Argument(help="Structures to choose from, any file that ASE reads.")
    ],
    labelled: Annotated[
        list[Path],
        typer.Option(help="Labels that there are already: what the model was trained on."),
    ],
    n: Annotated[int, typer.Option("-n", min=1, help="How many frames to choose.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Extended xyz file for the chosen frames.")
    ],
    max_pool: Annotated[
        int | None,
        typer.Option(
            min=1, help="Look at no more frames than this, drawn at random; default: five times -n."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of that draw.")] = 0,
    charge: Charge = None,
    spin: Spin = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Frames looked at at once.")] = 32,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Choose the frames of a pool that are worth a label, the most informative first.

    They are those that together with the labelled ones leave the smallest predicted error of H over
    the whole pool. The best of very many are extremes, from which little is learnt about the rest:
    with a rare event to be found give --max-pool, otherwise not. The file can go to 'hamnet label'
    as it is. A frame that the model refuses is reported and skipped; the exit code is then 1.

    Example: hamnet select runs/water pool.xyz --labelled water.h5 -n 50 -o next.xyz
    """
    from hamnet.data.store import Store
    from hamnet.errors import HamnetError
    from hamnet.interop.selected import read_pool, write_chosen
    from hamnet.models import load_model
    from hamnet.training.selection import select as choose
    from hamnet_cli.tables import chosen_table

    loaded, known = load_model(model), []
    for path in labelled:
        with Store.open(path) as store:
            known += [store.structure(k) for k in range(len(store))]
    frames, unread = read_pool(pool, max_pool or PER_CHOSEN * n, seed, charge=charge, spin=spin)
    structures = [f.structure for f in frames if not isinstance(f.structure, HamnetError)]
    with progress("select", len(known) + 2 * len(structures), quiet) as advance:
        found = choose(loaded, known, structures, n, batch_size=batch_size, advance=advance)
    refused = [f"{frames[k].origin}: {reason}" for k, reason in found.refused.items()]
    for reason in (*unread, *refused):
        complain(reason)
    rows = write_chosen(out, [(frames[c.index], c.h_std_uha, c.left) for c in found.chosen])
    if found.known:
        note(f"{len(found.known)} of {len(structures)} frames are labelled already: left out")
    if json:
        counts = {
            "n_pool": len(frames),
            "n_refused": len(unread) + len(refused),
            "n_labelled": len(found.known),
        }
        print_json({"out": str(out), **counts, "frames": rows})
    else:
        print_table(chosen_table(rows))
        note(f"chosen frames: {out}")
    if unread or refused:
        raise typer.Exit(1)
