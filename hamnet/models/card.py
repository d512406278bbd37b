"""The model card: what a person must know before using a model, as Markdown."""

from hamnet.models.metadata import Metadata

CARD_FILE = "model.md"
"""Name of the card inside the folder of a training run."""


def model_card(metadata: Metadata) -> str:
    """Return the card of a model; it says nothing that the model file does not hold."""
    data, level = metadata.data, metadata.level
    elements = [name for name in metadata.pairs if "-" not in name]
    pairs = [name for name in metadata.pairs if "-" in name]
    sections = {
        "What it predicts": [
            f"The Kohn-Sham Hamiltonian of molecules at {level}, as PySCF would converge it; "
            "orbital energies and orbitals follow from it.",
            f"- target: {_target(metadata)}",
            f"- elements: {', '.join(elements)}",
            f"- pairs of elements that it has seen together: {', '.join(pairs) or 'none'}",
            f"- charges: {_list(metadata.charges)}; unpaired electrons: {_list(metadata.spins)}",
            "- not for crystals, and not for other elements, pairs, charges or spins: it refuses",
        ],
        "Training data": [
            f"- dataset: {data.name or 'unnamed'} (id {data.id or 'unknown'})",
            f"- licence of the data: {data.licence or 'not stated'}",
            f"- citation: {data.citation or 'not stated'}",
            f"- frames: {data.n_train} training, {data.n_validation} validation, {data.n_test} "
            "test",
        ],
        "Errors": _errors(metadata),
        "Uncertainty": _uncertainty(metadata),
        "Network": [
            f"- {metadata.model.name}, {metadata.model.channels} natural and "
            f"{metadata.model.pseudo_channels} pseudo channels, {metadata.model.layers} message "
            f"and {metadata.model.pair_layers} pair layers",
            f"- cutoffs: messages {metadata.model.message_cutoff:g} Å, blocks "
            f"{metadata.model.pair_cutoff:g} Å",
            f"- overlap eigenvalues below which H0 stays alone: {metadata.overlap_floor:g}",
            f"- seed: {metadata.seed}",
            f"- made with: {', '.join(f'{k} {v}' for k, v in metadata.versions.items())}",
            f"- file: safetensors, hamnet's model format {metadata.format_version}",
        ],
    }
    if parent := metadata.parent:
        sections["Fine-tuned"] = [
            f"- from {parent.file} (sha256 {parent.sha256[:16]}...), trained on "
            f"{parent.data or 'unnamed data'}",
            f"- kept: {', '.join(parent.kept) or 'nothing'}",
            f"- new: {', '.join(parent.new) or 'nothing'}",
        ]
    title = f"# A hamnet model of {data.name or ', '.join(elements)}"
    text = [title] + [f"## {name}\n\n" + "\n".join(lines) for name, lines in sections.items()]
    return "\n\n".join(text) + "\n"


def _target(metadata: Metadata) -> str:
    if metadata.reference == "none":
        return "H"
    fitted = " + potentials of atoms that are fitted to H" if metadata.potentials else ""
    return f"H - H0, with H0 = {metadata.reference}{fitted}"


def _list(values: tuple[int, ...]) -> str:
    return ", ".join(map(str, values))


def _errors(metadata: Metadata) -> list[str]:
    if not metadata.metrics:
        return ["Not measured: there were no validation frames."]
    lines = [f"- {name}: {value:.4g}" for name, value in metadata.metrics.items()]
    return ["Means over the validation frames; the unit ends each name.", "", *lines]


def _uncertainty(metadata: Metadata) -> list[str]:
    known = metadata.uncertainty
    if known is None:
        return ["It does not say how sure it is."]
    return [
        "Every prediction has standard deviations of HOMO, LUMO, gap and H: the posterior of the "
        f"solved readout, scaled on {known.n_frames} validation frames "
        f"(factors {', '.join(f'{x:.2f}' for x in known.factors)})."
    ]
