"""Band structures as JSON files and as pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hamnet.bands import BandEdges, BandPath
from hamnet.errors import HamnetError
from hamnet.evaluation.bands import BandStructure
from hamnet.evaluation.picture import BLUE, ORANGE
from hamnet.files import replacing, write_text
from hamnet.units import HARTREE_TO_EV

FORMAT = "hamnet-bands"
FORMAT_VERSION = 1
PLOT_WINDOW_EV = 8.0


def write_bands(path: Path, bands: BandStructure) -> None:
    """Write a band structure as JSON; energies in eV, k points fractional.

    Raises:
        HamnetError: the file cannot be written.
    """
    data: dict[str, Any] = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        **bands.summary(),
        "first_band": bands.first_band,
        "ticks": [{"distance": d, "name": name} for d, name in bands.path.ticks],
        "distances_per_angstrom": bands.path.distances.tolist(),
        "k_points": bands.path.k_points.tolist(),
        "energies_ev": bands.energies_ev.tolist(),
        "dos": {
            "energies_ev": bands.dos_energies_ev.tolist(),
            "states_per_ev": bands.dos_per_ev.tolist(),
        },
    }
    write_text(path, json.dumps(data, indent=None) + "\n")


def read_bands(path: Path) -> BandStructure:
    """Read a file of `write_bands`.

    Raises:
        HamnetError: no such file, no JSON, or not such a file.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise HamnetError(f"{path}: not a readable bands file ({error})") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise HamnetError(f"{path}: not a bands file of 'hamnet bands'")
    if data["version"] != FORMAT_VERSION:
        raise HamnetError(
            f"{path}: version {data['version']}, this hamnet reads version {FORMAT_VERSION}"
        )
    try:
        return _from_json(data)
    except (KeyError, TypeError, ValueError) as error:
        raise HamnetError(f"{path}: damaged ({type(error).__name__}: {error})") from error


def _from_json(data: dict[str, Any]) -> BandStructure:
    edges = None
    if data["fermi_ev"] is not None:
        vbm, cbm = data.get("valence_band_maximum_ev"), data.get("conduction_band_minimum_ev")
        edges = BandEdges(
            fermi=data["fermi_ev"] / HARTREE_TO_EV,
            gap=data["gap_ev"] / HARTREE_TO_EV,
            valence=None if vbm is None else vbm / HARTREE_TO_EV,
            conduction=None if cbm is None else cbm / HARTREE_TO_EV,
            valence_k=tuple(data.get("valence_band_maximum_k", ())),
            conduction_k=tuple(data.get("conduction_band_minimum_k", ())),
        )
    n1, n2, n3 = data["k_mesh"]
    return BandStructure(
        formula=data["formula"],
        origin=data["origin"],
        path=BandPath(
            np.array(data["k_points"]),
            np.array(data["distances_per_angstrom"]),
            tuple((tick["distance"], tick["name"]) for tick in data["ticks"]),
        ),
        energies_ev=np.array(data["energies_ev"]),
        first_band=data["first_band"],
        n_electrons=data["n_electrons"],
        edges=edges,
        mesh=(n1, n2, n3),
        dos_energies_ev=np.array(data["dos"]["energies_ev"]),
        dos_per_ev=np.array(data["dos"]["states_per_ev"]),
    )


def plot_bands(path: Path, bands: BandStructure, reference: BandStructure | None = None) -> None:
    """Draw bands and density of states, the Fermi level at zero, a reference under them.

    Raises:
        HamnetError: the file's ending is none that matplotlib writes, or it cannot be written.
    """
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 1), sharey=True)
    if reference is not None:
        _lines(left, reference, ORANGE, "reference", 2.2)
    _lines(left, bands, BLUE, "bands", 0.9)
    zero = 0.0 if bands.edges is None else bands.fermi_ev
    right.plot(bands.dos_per_ev, bands.dos_energies_ev - zero, color=BLUE, linewidth=1.0)
    ticks = [d for d, _ in bands.path.ticks]
    left.set_xticks(ticks, [name.replace("G", "Γ") for _, name in bands.path.ticks])
    left.set_xlim(bands.path.distances[0], bands.path.distances[-1])
    for tick in ticks:
        left.axvline(tick, color="0.8", linewidth=0.6, zorder=0)
    for axes in (left, right):
        axes.axhline(0.0, color="0.5", linewidth=0.6, linestyle=":")
    shown = bands.energies_ev - zero
    left.set_ylim(max(shown.min() - 0.2, -PLOT_WINDOW_EV), min(shown.max() + 0.2, PLOT_WINDOW_EV))
    left.set_ylabel("energy (eV)" if bands.edges is None else "energy - Fermi level (eV)")
    right.set_xlabel("states per eV")
    right.set_xlim(left=0)
    left.set_title(bands.formula)
    if reference is not None:
        left.legend(loc="upper right")
    kind = path.suffix.lstrip(".").lower() or "png"
    if kind not in figure.canvas.get_supported_filetypes():
        raise HamnetError(f"{path}: pictures end in .png, .svg or .pdf")
    with replacing(path) as partial:
        figure.savefig(partial, format=kind, dpi=200)


def _lines(axes: Any, bands: BandStructure, colour: str, label: str, width: float) -> None:
    zero = 0.0 if bands.edges is None else bands.fermi_ev
    for spin, levels in enumerate(bands.energies_ev):
        style = "-" if spin == 0 else "--"
        lines = axes.plot(
            bands.path.distances, levels - zero, color=colour, linewidth=width, linestyle=style
        )
        lines[0].set_label(label if spin == 0 else f"{label}, beta")
