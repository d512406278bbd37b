"""Orbitals as surfaces that can be turned, by 3Dmol.js, which is shipped and lies in the page."""

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from hamnet.evaluation.figures import space
from hamnet.evaluation.html import Section, asset, details
from hamnet.evaluation.orbital_grids import FrameOrbitals
from hamnet.structure import FloatArray, Structure, xyz_text

LIBRARY, LICENCE = "3Dmol-min.js", "3Dmol-LICENSE.txt"
"""3Dmol.js 2.5.5: ``build/3Dmol-min.js`` and ``LICENSE`` of npm's ``3dmol``, unchanged."""

CLIP = 0.25
"""Orbitals are stored in 255 steps up to this value, bohr^(-3/2): a surface is off by 0.02 A."""

_VIEWER = """<div id="orbital-viewer" hidden>
<div class="controls">
<div role="group" aria-label="Frame">{frames}</div>
<div role="group" aria-label="Orbital">{orbitals}</div>
<label>isovalue <input type="range" min="0.01" max="0.12" step="0.005" value="{isovalue}">
<span data-text="isovalue"></span></label>
</div>
<div class="pair">
{canvases}
</div>
<p data-text="facts" aria-live="polite"></p>
</div>"""
_CANVAS = (
    '<figure><figcaption data-text="{side}"></figcaption>'
    '<div class="canvas" data-side="{side}"></div></figure>'
)


def orbital_section(shown: Sequence[FrameOrbitals]) -> Section:
    """Return the section with the two viewers, and outlines for browsers without WebGL."""
    names = dict.fromkeys(name for frame in shown for name in frame.orbitals)
    viewer = _VIEWER.format(
        frames=_buttons("frame", {str(n): frame.words for n, frame in enumerate(shown)}),
        orbitals=_buttons("orbital", {name: name for name in names}),
        isovalue=space.ISOVALUE,
        canvases="".join(_CANVAS.format(side=side) for side in ("predicted", "label")),
    )
    text = (
        "Surfaces of the frontier orbitals, predicted beside label, seen from the same side. Drag "
        "to turn; pinch, or Ctrl and the wheel, to zoom."
    )
    outlines = [space.outline(frame, name) for frame in shown for name in frame.orbitals]
    return Section(
        "HOMO and LUMO",
        body=f'<p id="orbital-note">{escape(text)}</p>\n{viewer}',
        folded=("Outlines of the surfaces, flat", outlines),
    )


def viewer_scripts(shown: Sequence[FrameOrbitals]) -> str:
    """Return the grids, the library with its licence, and the program that joins them."""
    data = {
        "clip": CLIP,
        "isovalue": space.ISOVALUE,
        "frames": [_frame(frame) for frame in shown],
    }
    words = "Licence of 3Dmol.js, the library that draws the orbitals"
    library = _pack(asset(LIBRARY).encode("utf-8"))
    return "\n".join(
        (
            details(words, f"<pre>{escape(asset(LICENCE))}</pre>"),
            f'<script type="application/json" id="orbital-data">{json.dumps(data)}</script>',
            f'<script type="text/plain" id="library">{library}</script>',
            f"<script>\n{asset('viewer.js')}</script>",
        )
    )


def _buttons(key: str, texts: Mapping[str, str]) -> str:
    return "".join(
        f'<button type="button" data-key="{key}" data-value="{escape(value)}">'
        f"{escape(text)}</button>"
        for value, text in texts.items()
    )


def _frame(shown: FrameOrbitals) -> dict[str, Any]:
    frame = shown.frame
    title = f"Frame {frame.index}, {frame.formula}, the {shown.words} one"
    return {
        "title": title,
        "xyz": xyz_text(Structure(shown.numbers, shown.positions)),
        "origin": shown.origin.round(6).tolist(),
        "spacing": round(shown.spacing, 6),
        "shape": list(next(iter(shown.orbitals.values())).label.shape),
        "orbitals": {
            name: {
                "energy_ev": orbital.energy_ev,
                "energy_ref_ev": orbital.energy_ref_ev,
                "overlap": orbital.overlap,
                "predicted": _pack(quantised(orbital.predicted)),
                "label": _pack(quantised(orbital.label)),
            }
            for name, orbital in shown.orbitals.items()
        },
    }


def quantised(values: FloatArray) -> bytes:
    """Return values as signed bytes, 127 for `CLIP` and above, in C order."""
    steps = np.rint(127.0 * np.clip(values / CLIP, -1.0, 1.0))
    return steps.astype(np.int8).tobytes()


def _pack(data: bytes) -> str:
    """Compress to text; the same data always give the same text."""
    return base64.b64encode(gzip.compress(data, mtime=0)).decode("ascii")
