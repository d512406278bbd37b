"""The laws of a Hamiltonian model, as functions that anyone can run on a model of their own.

Each ``check_*`` raises AssertionError with the largest deviation. Use float64 models: tolerances
are those of float64.

    >>> from hamnet.testing import check_rotation  # doctest: +SKIP
    >>> check_rotation(model, structure)  # doctest: +SKIP
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

from hamnet.basis import OrbitalBasis
from hamnet.blocks import HamiltonianBlocks, SpinKind, molecule_layout, to_dense, to_k
from hamnet.data.level import LevelOfTheory
from hamnet.data.samples import Sample, batch_samples, make_sample, with_density
from hamnet.integrals import basis_for, overlap, valence_electrons
from hamnet.lattice import crystal_basis
from hamnet.models import HamiltonianModel
from hamnet.models.config import ModelConfig
from hamnet.models.metadata import Metadata
from hamnet.references import reference_hamiltonian
from hamnet.so3.rotation import real_harmonics
from hamnet.spinor import to_spinor, turned
from hamnet.structure import FloatArray, IntArray, Structure, symbol

TOLERANCE = 1e-10

SOME_K = np.array([0.13, 0.27, -0.41])
"""A k point without symmetry, at which matrices of crystals are compared."""

_SMALL = {
    "channels": 6,
    "pseudo_channels": 3,
    "radial_hidden": 8,
    "tracegrad_rank": 3,
    "tracegrad_hidden": 8,
}


class EntriesModel(Protocol):
    """What the checks need: the entries of a batch of samples."""

    @property
    def basis(self) -> OrbitalBasis:
        """Orbitals of each element."""

    @property
    def cutoffs(self) -> tuple[float, float]:
        """Message and pair cutoff, Angstrom."""

    @property
    def spin_kind(self) -> SpinKind:
        """Whether H has one matrix, or the four of spin-orbit coupling."""

    def __call__(self, sample: Sample) -> torch.Tensor:
        """Return the entries of all matrices of a batch, ``(n_entries,)``."""


def random_rotation(generator: np.random.Generator, *, improper: bool = False) -> FloatArray:
    """Return a random orthogonal matrix ``[3, 3]`` with determinant +1, or -1."""
    matrix, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    matrix *= np.sign(np.linalg.det(matrix)) * (-1 if improper else 1)
    return np.asarray(matrix)


def wigner_d(l: int, rotation: FloatArray) -> FloatArray:
    """Return ``D`` with ``Y_l(R r) = D Y_l(r)``, proper or improper ``R``, ``[2l+1, 2l+1]``."""
    points = np.random.default_rng(l).normal(size=(8 * (l + 1), 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    before = real_harmonics([l], torch.from_numpy(points)).numpy()
    after = real_harmonics([l], torch.from_numpy(points @ rotation.T)).numpy()
    transposed: FloatArray = np.linalg.lstsq(before, after, rcond=None)[0]
    return transposed.T


def rotate_orbitals(basis: OrbitalBasis, numbers: IntArray, rotation: FloatArray) -> FloatArray:
    """Return ``D`` with ``H(R x) = D H(x) D^T`` in hamnet's orbital order, ``[n, n]``."""
    blocks = [wigner_d(l, rotation) for z in numbers for l in basis.of(int(z))]
    return np.asarray(scipy.linalg.block_diag(*blocks))


def random_model(
    basis: str,
    elements: Sequence[int],
    *,
    pseudo: str = "",
    relativity: Literal["none", "x2c", "spin-orbit"] = "none",
    **settings: Any,
) -> HamiltonianModel:
    """Return a small float64 model in which no weight, shift or gain is zero.

    Args:
        basis: name of a basis set.
        elements: atomic numbers that the model knows.
        pseudo: pseudopotentials; with them the model is one of crystals.
        relativity: with spin-orbit coupling H has four matrices (`hamnet.spinor`).
        settings: of `hamnet.models.config.ModelConfig`.
    """
    atoms = sorted(elements)
    positions = np.arange(3 * len(atoms), dtype=np.float64).reshape(-1, 3) * 5
    far_apart = Structure(np.array(atoms), positions, spin=sum(atoms) % 2)
    names = [symbol(z) for z in atoms]
    names += [f"{a}-{b}" for k, a in enumerate(names) for b in names[k:]]
    metadata = Metadata(
        basis=(
            crystal_basis(atoms, basis, pseudo) if pseudo else basis_for(far_apart, basis)
        ).to_dict(),
        level=LevelOfTheory(xc="pbe", basis=basis, pseudo=pseudo, relativity=relativity),
        periodic=bool(pseudo),
        pairs=tuple(names),
        n_neighbours=3.0,
        model=ModelConfig(**{**_SMALL, **settings}),
    )
    torch.manual_seed(0)
    model = HamiltonianModel(metadata)
    model.network.double()
    for parameter in model.network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter)
    for t in model.types:
        shift, scale = model.standardiser.shift_scale(t)
        model.standardiser.get_buffer(f"trace_{t.key}")[2] = 1.0
        for c in model.standardiser.tables[t].classes:
            scale[c.columns] = (0.5 + torch.rand(c.n_irreps).double()).repeat(c.n_components)
            if c.is_invariant:
                shift[c.columns] = torch.randn(c.n_irreps).double()
    return model.eval()


def predict_blocks(model: EntriesModel, structure: Structure) -> HamiltonianBlocks:
    """Return what the model gives for one structure, without H0: one matrix, or four."""
    sample = _sample(model, structure)
    with torch.no_grad():
        entries = model(sample).numpy()
    if model.spin_kind is SpinKind.SPINOR:
        entries = entries.reshape(SpinKind.SPINOR, -1)
    return HamiltonianBlocks(sample.layouts[0], entries)


def _sample(model: EntriesModel, structure: Structure) -> Sample:
    """Return what the model sees of a structure; as H0 ``sap``, which obeys all laws exactly."""
    offsets = model.basis.atom_offsets(structure.numbers)
    layout = None if structure.is_periodic else molecule_layout(offsets)
    sample = make_sample(structure, layout, model.basis, model.cutoffs, spin_kind=model.spin_kind)
    if not isinstance(model, HamiltonianModel) or model.network.density is None:
        return sample
    h0 = reference_hamiltonian(structure, model.metadata.level, "sap", model.basis)
    n_electrons = valence_electrons(structure, model.basis)
    return with_density(sample, h0.entries, overlap(structure, model.basis), n_electrons)


def predict_matrix(model: EntriesModel, structure: Structure) -> NDArray[Any]:
    """Return `predict_blocks` as a dense matrix ``[n, n]``; of a crystal, H(k) at some k.

    With spin-orbit coupling the four matrices, ``[4, n, n]``.
    """
    blocks = predict_blocks(model, structure)
    return to_k(blocks, SOME_K * structure.pbc) if structure.is_periodic else to_dense(blocks)


def whole(matrix: NDArray[Any]) -> NDArray[Any]:
    """Return the Hermitian matrix of which `predict_matrix` gives one matrix, or four."""
    return to_spinor(matrix) if matrix.ndim == 3 else matrix


def moved(structure: Structure, positions: FloatArray) -> Structure:
    """Return the same structure with its atoms at other positions, Angstrom."""
    return replace(structure, positions=positions)


def check_rotation(
    model: EntriesModel, structure: Structure, *, improper: bool = False, seed: int = 0
) -> None:
    """``H(R x) = D H(x) D^T`` for a rotation, or for a rotation with inversion."""
    rotation = random_rotation(np.random.default_rng(seed), improper=improper)
    d = rotate_orbitals(model.basis, structure.numbers, rotation)
    expected = predict_matrix(model, structure)
    expected = turned(expected, d, rotation) if expected.ndim == 3 else d @ expected @ d.T
    after = replace(
        structure, positions=structure.positions @ rotation.T, cell=structure.cell @ rotation.T
    )
    found = predict_matrix(model, after)
    _same(found, expected, "improper rotation" if improper else "rotation")


def check_translation(model: EntriesModel, structure: Structure, seed: int = 0) -> None:
    """``H`` does not change when all atoms move by the same vector."""
    shift = np.random.default_rng(seed).normal(size=3) * 3
    found = predict_matrix(model, moved(structure, structure.positions + shift))
    _same(found, predict_matrix(model, structure), "translation")


def check_permutation(model: EntriesModel, structure: Structure, seed: int = 0) -> None:
    """Reordering the atoms reorders the blocks of ``H`` and changes nothing else.

    Checked are the reverse order, which turns every pair around, and a random one.
    """
    n = len(structure)
    for order in (np.arange(n)[::-1], np.random.default_rng(seed).permutation(n)):
        _check_order(model, structure, order)


def _check_order(model: EntriesModel, structure: Structure, order: IntArray) -> None:
    offsets = model.basis.atom_offsets(structure.numbers)
    rows = np.concatenate([np.arange(offsets[a], offsets[a + 1]) for a in order])
    permuted = replace(
        structure, numbers=structure.numbers[order], positions=structure.positions[order]
    )
    found = predict_matrix(model, permuted)
    _same(found, predict_matrix(model, structure)[..., rows[:, None], rows], "permutation")


def check_hermitian(model: EntriesModel, structure: Structure) -> None:
    """``H = H^dagger``, exactly: canonical blocks leave nothing to average."""
    matrix = whole(predict_matrix(model, structure))
    tolerance = 1e-15 if structure.is_periodic else 0.0  # the order of sums over cell shifts
    _same(matrix, matrix.conj().T, "Hermiticity", tolerance)


def check_batch(model: EntriesModel, structures: Sequence[Structure]) -> None:
    """A batch gives what its members give one by one."""
    samples = [_sample(model, structure) for structure in structures]
    with torch.no_grad():
        batch = model(batch_samples(samples)).numpy()
        singles = np.concatenate([model(sample).numpy() for sample in samples])
    _same(batch, singles, "batch = singles")


def check_wrapping(model: EntriesModel, structure: Structure, seed: int = 0) -> None:
    """Atoms of a crystal may lie in any cell: a move by R multiplies orbitals by a phase."""
    shift = np.random.default_rng(seed).integers(-2, 3, (len(structure), 3)) * structure.pbc
    found = predict_matrix(model, moved(structure, structure.positions + shift @ structure.cell))
    orbitals = np.diff(model.basis.atom_offsets(structure.numbers))
    phase = np.repeat(np.exp(2j * np.pi * shift @ SOME_K), orbitals)
    expected = predict_matrix(model, structure)
    _same(found, phase[:, None] * expected * phase.conj(), "wrapping")


def check_supercell(
    model: EntriesModel, structure: Structure, repeat: tuple[int, int, int]
) -> None:
    """A supercell has the folded matrices of its primitive cell.

    ``H_super(K)`` has the eigenvalues of ``H(k)`` at all ``k = (K + n) / repeat``.
    """
    cells = np.array(list(np.ndindex(*repeat)))
    large = replace(
        structure,
        numbers=np.tile(structure.numbers, len(cells)),
        positions=np.concatenate([structure.positions + c @ structure.cell for c in cells]),
        cell=structure.cell * np.array(repeat)[:, None],
    )
    found = np.linalg.eigvalsh(whole(predict_matrix(model, large)))
    small = predict_blocks(model, structure)
    points = (SOME_K * structure.pbc + cells) / np.array(repeat)
    folded = np.concatenate([np.linalg.eigvalsh(whole(to_k(small, k))) for k in points])
    _same(found, np.sort(folded), "supercell = primitive cell")


def check_all(model: EntriesModel, structures: Sequence[Structure]) -> None:
    """Run every check above."""
    for structure in structures:
        check_rotation(model, structure)
        check_rotation(model, structure, improper=True)
        check_translation(model, structure)
        check_permutation(model, structure)
        check_hermitian(model, structure)
        if structure.is_periodic:
            check_wrapping(model, structure)
            check_supercell(model, structure, tuple(np.where(structure.pbc, (2, 1, 2), 1)))
    check_batch(model, structures)


def _same(
    found: NDArray[Any], expected: NDArray[Any], law: str, tolerance: float = TOLERANCE
) -> None:
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    error = float(np.abs(found - expected).max(initial=0.0))
    assert error <= tolerance * scale, f"{law} is broken by {error:.3g} (scale {scale:.3g})"
