"""A trained model: network, units of its targets, and what it may be used for."""

from collections.abc import Sequence
from dataclasses import replace
from typing import overload

import numpy as np
import torch
from torch import Tensor, nn

from hamnet.basis import OrbitalBasis
from hamnet.blocks import HamiltonianBlocks, PairLayout, SpinKind, molecule_layout
from hamnet.correction import corrected
from hamnet.data.record import Record
from hamnet.data.samples import (
    Sample,
    batch_samples,
    make_sample,
    record_reference,
    sample_beside,
    with_density,
)
from hamnet.errors import HamnetError
from hamnet.graph import NeighbourGraph
from hamnet.integrals import overlap, valence_electrons
from hamnet.interop.pyscf import Mole
from hamnet.interop.structures import System, to_structure
from hamnet.irreps import BlockType, block_irreps
from hamnet.lattice import pair_overlaps, valence_charges
from hamnet.models.guards import (
    FORCE,
    check_elements,
    orbital_warnings,
    other_basis,
    refuse,
    runnable,
    untrained,
)
from hamnet.models.metadata import QUANTITIES, Metadata
from hamnet.models.ranges import range_warnings
from hamnet.models.so2_network import SO2Network
from hamnet.models.uncertainty import Inference, Propagation
from hamnet.nn.assembler import BlockAssembler
from hamnet.nn.covariance import ReadoutCovariance
from hamnet.nn.frames import PairFrames
from hamnet.nn.readout import block_rows, block_types
from hamnet.nn.standardise import Standardiser
from hamnet.potentials import AtomicPotentials
from hamnet.prediction import Prediction, aufbau
from hamnet.references import Reference
from hamnet.registry import look_up
from hamnet.so3.rotation import EdgeFrame
from hamnet.spectrum import solve
from hamnet.spinor import eigenproblem
from hamnet.structure import Structure, atomic_number, symbol

MODELS: dict[str, type[SO2Network]] = {"so2": SO2Network}
"""Networks by the name in `ModelConfig`."""


MAX_KEPT_PAIRS = 10_000
"""Directed pairs; the features of more are not kept where nothing needs them: 30 kB a pair."""


def type_name(block_type: BlockType) -> str:
    """Return ``O`` for on-site blocks and ``H-O`` for pair blocks."""
    i, j = symbol(block_type.z_i), symbol(block_type.z_j)
    return i if block_type.on_site else f"{i}-{j}"


def parse_type(name: str) -> BlockType:
    """Inverse of `type_name`."""
    numbers = [atomic_number(part) for part in name.split("-")]
    if len(numbers) == 1:
        return BlockType.atom(numbers[0])
    return BlockType.pair((numbers[0], numbers[1]))


class HamiltonianModel(nn.Module):
    """From structures to Hamiltonians and orbitals.

    Args:
        metadata: what the model is; the network is built from it, with random weights.
    """

    def __init__(self, metadata: Metadata) -> None:
        super().__init__()
        self.metadata = metadata
        self.basis = OrbitalBasis.from_dict(metadata.basis)
        self.types = tuple(parse_type(name) for name in metadata.pairs)
        spinor = metadata.level.is_spinor
        tables = [block_irreps(self.basis, t, spinor=spinor) for t in self.types]
        network = look_up("model", metadata.model.name, MODELS)
        self.network = network(metadata.model, tables, metadata.n_neighbours)
        self.standardiser = Standardiser(tables)
        self.assembler = BlockAssembler(tables)
        self.frame = EdgeFrame(self.network.l_max)
        self.covariance: ReadoutCovariance | None = None
        if metadata.uncertainty is not None:
            self.covariance = ReadoutCovariance(self.network.readout, metadata.uncertainty.size)

    @property
    def cutoffs(self) -> tuple[float, float]:
        """Message and pair cutoff, Angstrom."""
        return self.metadata.model.message_cutoff, self.metadata.model.pair_cutoff

    @property
    def reference(self) -> Reference:
        """H0."""
        fitted = self.metadata.potentials
        potentials = AtomicPotentials.from_dict(fitted) if fitted else None
        return Reference(self.metadata.reference, potentials)

    @property
    def spin_kind(self) -> SpinKind:
        """Whether H has one matrix, or the four of spin-orbit coupling."""
        return SpinKind.SPINOR if self.metadata.level.is_spinor else SpinKind.CLOSED

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that the model was trained for."""
        return tuple(t.z_i for t in self.types if t.on_site)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network; targets and eigenproblems are always float64."""
        return next(self.network.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.network.parameters()).device

    def frames(self, graph: NeighbourGraph) -> PairFrames:
        """Return the frames of the pairs, float64: targets and features must share them exactly."""
        return PairFrames.of(graph, self.frame)

    def forward(self, sample: Sample) -> Tensor:
        """Return the entries of H - H0 of a batch, Hartree, float64, ``(n_entries,)``."""
        return self.infer(sample).entries

    def infer(self, sample: Sample) -> Inference:
        """Return the entries of a batch with what they were made of."""
        batch = sample.to(self.device)
        frames = self.frames(batch.graph)
        large = self.covariance is None and batch.n_pairs > MAX_KEPT_PAIRS
        run = self.network.stream if large and not torch.is_grad_enabled() else self.network
        out = run(batch.graph, frames.to(self.dtype), batch.density)
        irreps = {}
        for t, y in out.irreps.items():
            fade = None if t.on_site else out.envelope[block_rows(batch.graph, t)]
            irreps[t] = self.standardiser.physical(t, y, fade)
        entries: Tensor = self.assembler(irreps, batch.index, batch.n_entries, batch.graph, frames)
        return Inference(batch, frames, out, entries)

    def targets(self, batch: Sample, frames: PairFrames) -> dict[BlockType, Tensor]:
        """Return the irreps of a labelled batch, Hartree, pairs in their frames."""
        assert batch.target is not None
        return self.assembler.inverse(batch.target, batch.index, batch.graph, frames)

    @torch.no_grad()
    def with_goals(self, sample: Sample) -> Sample:
        """Return a labelled sample with what training compares with, in place of its entries.

        Made once for a sample and kept, so that no step computes it again. The goal of an irrep is
        ``(h - env shift) / scale``, to which the faded output of the network is compared; that of
        an invariant see `Standardiser.traces`.
        """
        batch = sample.to(self.device)
        frames = self.frames(batch.graph)
        envelope = self.network.envelope(frames.distance.to(self.dtype)).double()
        goals, traces = {}, {}
        for t, h in self.targets(batch, frames).items():
            shift, scale = self.standardiser.shift_scale(t)
            rows = block_rows(batch.graph, t)
            distance = None if t.on_site else frames.distance[rows]
            goals[t] = (h - (shift if t.on_site else envelope[rows, None] * shift)) / scale
            if t.key in self.network.trace_decoder:
                traces[t] = self.network.trace_targets(self.standardiser, t, h, distance)
        whole = replace(batch, index={}, target=None, goals=goals, traces=traces)
        return whole.to(sample.graph.positions.device)

    def check(self, structure: Structure) -> None:
        """Refuse what the model was not trained for.

        Raises:
            HamnetError: says which element, pair of elements, charge, spin or periodicity, or which
                contact between atoms.
        """
        check_elements(structure, self.elements)
        refuse(untrained(structure, self.metadata))

    @overload
    def predict(self, systems: list[System], *, force: bool = False) -> list[Prediction]: ...
    @overload
    def predict(self, systems: System, *, force: bool = False) -> Prediction: ...
    @torch.inference_mode()
    def predict(
        self, systems: list[System] | System, *, force: bool = False
    ) -> list[Prediction] | Prediction:
        """Return Hamiltonian, overlap and orbitals of a molecule, or of each of a list.

        The overlap and the reference Hamiltonian are computed by PySCF, never learnt.

        Args:
            systems: hamnet structures, ASE atoms, built PySCF molecules in the basis of the model.
            force: predict also what the model was not trained for, as far as its network can; what
                was forced is in the prediction's warnings. Elements and pairs of elements without
                weights are never predicted. A model of molecules takes a crystal as a molecule in
                a box. An open shell gets the one H of a closed shell for both spins.

        Raises:
            HamnetError: the model was not trained for a structure (`check`), or pairs of elements
                meet that never met in training; a molecule in another basis.
        """
        if not isinstance(systems, list | tuple):
            return self._predict([systems], force)[0]
        return self._predict(systems, force)

    def _predict(self, systems: Sequence[System], force: bool) -> list[Prediction]:
        parts, structures, remarks = [], [], []
        for system in systems:
            structure, remark = self._accept(system, force)
            structures.append(structure)
            remarks.append(remark)
            parts.append(self.unlabelled(structure))
        if not parts:
            return []
        run, out = self.infer(batch_samples([sample for sample, _, _ in parts])), []
        for structure, (sample, s, h0), delta, remark in zip(
            structures, parts, _split(run), remarks, strict=True
        ):
            if structure.is_periodic:
                out.append(self._crystal(structure, delta, s, sample, remark))
                continue
            n_electrons = valence_electrons(structure, self.basis)
            out.append(self._molecule(structure, delta, h0, s, n_electrons, sample, remark))
        return self._with_uncertainty(run, out)

    def _accept(self, system: System, force: bool) -> tuple[Structure, tuple[str, ...]]:
        """Return what is to be predicted, and in which respects it was forced."""
        structure = to_structure(system)
        check_elements(structure, self.elements)
        faults = untrained(structure, self.metadata)
        if isinstance(system, Mole):
            faults += other_basis(system, self.basis)
        if not force:
            refuse(faults, FORCE)
            return structure, ()
        if not self.metadata.periodic:
            structure = runnable(structure)
        return structure, tuple(f"forced: {fault}" for fault in faults)

    def unlabelled(
        self, structure: Structure
    ) -> tuple[Sample, HamiltonianBlocks, np.ndarray | None]:
        """Return what the network sees of a structure, its overlap and the entries of its H0.

        Raises:
            HamnetError: the basis is not one of PySCF's; a pair of elements that the model does not
                know.
        """
        level = self.metadata.level
        if not structure.is_periodic:
            s = overlap(structure, self.basis)
            sample = self._sample(structure, s.layout)
            h0 = self.reference.entries(structure, level, self.basis, s)
            if h0 is not None and self.network.density is not None:
                n_electrons = valence_electrons(structure, self.basis)
                sample = with_density(sample, h0, s, n_electrons)
            return sample, s, h0
        if not level.pseudo:
            raise HamnetError(
                f"the overlap of the basis '{self.basis.name}' ({level.program}) cannot be "
                "computed: PySCF has no such orbitals; give structures with labels"
            )
        sample = self._sample(structure, None)
        s = pair_overlaps(structure, self.basis, sample.layouts[0], level.pseudo)
        return sample, s, None

    def sample(self, structure: Structure) -> Sample:
        """Return what the network sees of a molecule: by PySCF no more than it looks at.

        Raises:
            HamnetError: a pair of elements that the model does not know.
        """
        if self.network.density is not None:
            return self.unlabelled(structure)[0]
        return self._sample(structure, molecule_layout(self.basis.atom_offsets(structure.numbers)))

    def _sample(self, structure: Structure, layout: PairLayout | None) -> Sample:
        sample = make_sample(structure, layout, self.basis, self.cutoffs, spin_kind=self.spin_kind)
        self.check_pairs(sample.graph)
        return sample

    def _crystal(
        self,
        structure: Structure,
        hamiltonian: np.ndarray,
        s: HamiltonianBlocks,
        sample: Sample,
        remarks: tuple[str, ...] = (),
    ) -> Prediction:
        """Return the prediction of a crystal, H ``[n_matrices, n_entries]``: see `hamnet.bands`."""
        pseudo, none = self.metadata.level.pseudo, np.zeros((1, 0))
        outside = range_warnings(sample.graph, self.metadata.ranges, self.cutoffs)
        return Prediction(
            structure=structure,
            basis=self.basis,
            hamiltonian=HamiltonianBlocks(s.layout, hamiltonian),
            overlap=s,
            orbital_energies=none,
            coefficients=np.zeros((1, self.spin_kind.n_components * s.layout.n_orbitals, 0)),
            occupations=none,
            warnings=(*remarks, *outside),
            level=self.metadata.level,
            n_electrons=valence_charges(structure, self.basis.name, pseudo) if pseudo else None,
        )

    def _molecule(
        self,
        structure: Structure,
        delta: np.ndarray,
        h0: np.ndarray | None,
        s: HamiltonianBlocks,
        n_electrons: int,
        sample: Sample,
        remarks: tuple[str, ...] = (),
    ) -> Prediction:
        """Return the prediction of a molecule from what was learnt and H0, with its orbitals."""
        h = corrected(delta, s, self.metadata.overlap_floor)
        if h0 is not None:
            h += h0
        prediction = orbitals(structure, self.basis, h, s, n_electrons)
        outside = range_warnings(sample.graph, self.metadata.ranges, self.cutoffs)
        warnings = (*remarks, *outside, *orbital_warnings(prediction))
        return replace(prediction, level=self.metadata.level, warnings=warnings)

    @torch.inference_mode()
    def predict_labelled(self, records: Sequence[Record]) -> list[Prediction]:
        """Return the same as `predict`, with overlap, H0 and electron number of the labels.

        Raises:
            HamnetError: as `predict`.
        """
        samples, references, reference = [], [], self.reference
        for record in records:
            self.check(record.structure)
            h0 = record_reference(record, reference, self.basis)
            samples.append(sample_beside(record, self.basis, self.cutoffs, h0, reference))
            references.append(h0)
            self.check_pairs(samples[-1].graph)
        if not samples:
            return []
        run, out = self.infer(batch_samples(samples)), []
        parts = zip(records, _split(run), samples, references, strict=True)
        for record, delta, sample, h0 in parts:
            if record.structure.is_periodic:
                s = record.blocks("overlap")
                kept = delta[:, : s.layout.n_entries]  # pairs that the label lacks stand behind
                out.append(self._crystal(record.structure, kept, s, sample))
                continue
            s, n_electrons = record.blocks("overlap"), round(float(record.occupations.sum()))
            out.append(self._molecule(record.structure, delta, h0, s, n_electrons, sample))
        return self._with_uncertainty(run, out)

    @property
    def propagation(self) -> Propagation | None:
        """What gives uncertainties; None where the model has none."""
        if self.covariance is None:
            return None
        readout = self.network.readout
        floor = self.metadata.overlap_floor
        return Propagation(readout, self.covariance, self.standardiser, self.assembler, floor)

    def _with_uncertainty(self, run: Inference, found: list[Prediction]) -> list[Prediction]:
        propagation, scale = self.propagation, self.metadata.uncertainty
        if propagation is None or scale is None:
            return found
        stds = (propagation.stds(run, found) * scale.factors).tolist()
        known = [dict(zip(QUANTITIES, values, strict=True)) for values in stds]
        return [replace(p, uncertainty=u) for p, u in zip(found, known, strict=True)]

    def check_pairs(self, graph: NeighbourGraph) -> None:
        """Refuse a structure in which elements meet that never met in the training data.

        Raises:
            HamnetError: names the pair.
        """
        for t in block_types(graph):
            if t not in self.types:
                raise HamnetError(
                    f"the pair {type_name(t)} never occurred in the training data of the model"
                )


def _split(run: Inference) -> list[np.ndarray]:
    """Return the entries of each structure of a batch, ``[n_matrices, n_entries]``."""
    parts = np.split(run.entries.cpu().numpy().copy(), np.cumsum(run.batch.sizes)[:-1])
    return [part.reshape(run.batch.spin_kind, -1) for part in parts]


def orbitals(
    structure: Structure,
    basis: OrbitalBasis,
    hamiltonian: np.ndarray,
    s: HamiltonianBlocks,
    n_electrons: int,
) -> Prediction:
    """Return the orbitals of Hamiltonian entries, ``[n_entries]`` or ``[n_matrices, n_entries]``.

    A structure with spin gets two channels with the same orbitals of a closed shell.
    """
    h = HamiltonianBlocks(s.layout, np.atleast_2d(hamiltonian))
    kind = h.spin_kind
    matrix, metric = eigenproblem(h, s)
    found = solve(torch.from_numpy(matrix), torch.from_numpy(metric)[None])
    channels = (2 if structure.spin and kind is SpinKind.CLOSED else 1, 1)
    if channels[0] == SpinKind.COLLINEAR:
        kind, h = SpinKind.COLLINEAR, HamiltonianBlocks(s.layout, np.tile(hamiltonian, channels))
    energies = np.tile(found.energies.numpy()[0], channels)
    return Prediction(
        structure=structure,
        basis=basis,
        hamiltonian=h,
        overlap=s,
        orbital_energies=energies,
        coefficients=np.tile(found.coefficients.numpy(), (*channels, 1)),
        occupations=aufbau(energies, n_electrons, structure.spin, kind),
    )
