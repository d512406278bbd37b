"""The laws of a Hamiltonian model, as functions that anyone can run on a model of their own.

Each ``check_*`` raises AssertionError with the largest deviation. Use float64 models: tolerances
are those of float64.

    >>> from hamnet.testing import check_rotation  # doctest: +SKIP
    >>> check_rotation(model, structure)  # doctest: +SKIP
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import scipy.linalg
import torch

from hamnet.basis import OrbitalBasis
from hamnet.blocks import HamiltonianBlocks, molecule_layout, to_dense
from hamnet.data.level import LevelOfTheory
from hamnet.data.samples import Sample, batch_samples, make_sample
from hamnet.integrals import basis_for
from hamnet.models import HamiltonianModel
from hamnet.models.config import ModelConfig
from hamnet.models.metadata import Metadata
from hamnet.so3.rotation import real_harmonics
from hamnet.structure import FloatArray, IntArray, Structure, symbol

TOLERANCE = 1e-10

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


def random_model(basis: str, elements: Sequence[int], **settings: Any) -> HamiltonianModel:
    """Return a small float64 model in which no weight, shift or gain is zero.

    Args:
        basis: name of a basis set.
        elements: atomic numbers that the model knows.
        settings: of `hamnet.models.config.ModelConfig`.
    """
    atoms = sorted(elements)
    positions = np.arange(3 * len(atoms), dtype=np.float64).reshape(-1, 3) * 5
    far_apart = Structure(np.array(atoms), positions, spin=sum(atoms) % 2)
    names = [symbol(z) for z in atoms]
    names += [f"{a}-{b}" for k, a in enumerate(names) for b in names[k:]]
    metadata = Metadata(
        basis=basis_for(far_apart, basis).to_dict(),
        level=LevelOfTheory(xc="pbe", basis=basis),
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


def predict_matrix(model: EntriesModel, structure: Structure) -> FloatArray:
    """Return what the model gives for one molecule as a dense matrix, without H0, ``[n, n]``."""
    layout = molecule_layout(model.basis.atom_offsets(structure.numbers))
    sample = make_sample(structure, layout, model.basis, model.cutoffs)
    with torch.no_grad():
        return to_dense(HamiltonianBlocks(layout, model(sample).numpy()))


def moved(structure: Structure, positions: FloatArray) -> Structure:
    """Return the same molecule at other positions, Angstrom."""
    return Structure(structure.numbers, positions, charge=structure.charge, spin=structure.spin)


def check_rotation(
    model: EntriesModel, structure: Structure, *, improper: bool = False, seed: int = 0
) -> None:
    """``H(R x) = D H(x) D^T`` for a rotation, or for a rotation with inversion."""
    rotation = random_rotation(np.random.default_rng(seed), improper=improper)
    d = rotate_orbitals(model.basis, structure.numbers, rotation)
    expected = d @ predict_matrix(model, structure) @ d.T
    found = predict_matrix(model, moved(structure, structure.positions @ rotation.T))
    _same(found, expected, "improper rotation" if improper else "rotation")


def check_translation(model: EntriesModel, structure: Structure, seed: int = 0) -> None:
    """``H`` does not change when all atoms move by the same vector."""
    shift = np.random.default_rng(seed).normal(size=3) * 3
    found = predict_matrix(model, moved(structure, structure.positions + shift))
    _same(found, predict_matrix(model, structure), "translation")


def check_permutation(model: EntriesModel, structure: Structure, seed: int = 0) -> None:
    """Reordering the atoms reorders the blocks of ``H`` and changes nothing else.

    In a random order, and backwards: that exchanges the atoms of every pair of one element.
    """
    expected = predict_matrix(model, structure)
    offsets = model.basis.atom_offsets(structure.numbers)
    n = len(structure)
    for order in (np.random.default_rng(seed).permutation(n), np.arange(n)[::-1]):
        rows = np.concatenate([np.arange(offsets[a], offsets[a + 1]) for a in order])
        other = Structure(structure.numbers[order], structure.positions[order])
        _same(predict_matrix(model, other), expected[np.ix_(rows, rows)], "permutation")


def check_hermitian(model: EntriesModel, structure: Structure) -> None:
    """``H = H^T``, exactly: canonical blocks leave nothing to average."""
    matrix = predict_matrix(model, structure)
    _same(matrix, matrix.T, "Hermiticity", tolerance=0.0)


def check_batch(model: EntriesModel, structures: Sequence[Structure]) -> None:
    """A batch gives what its members give one by one."""
    samples = []
    for structure in structures:
        layout = molecule_layout(model.basis.atom_offsets(structure.numbers))
        samples.append(make_sample(structure, layout, model.basis, model.cutoffs))
    with torch.no_grad():
        batch = model(batch_samples(samples)).numpy()
        singles = np.concatenate([model(sample).numpy() for sample in samples])
    _same(batch, singles, "batch = singles")


def check_all(model: EntriesModel, structures: Sequence[Structure]) -> None:
    """Run every check above."""
    for structure in structures:
        check_rotation(model, structure)
        check_rotation(model, structure, improper=True)
        check_translation(model, structure)
        check_permutation(model, structure)
        check_hermitian(model, structure)
    check_batch(model, structures)


def _same(found: FloatArray, expected: FloatArray, law: str, tolerance: float = TOLERANCE) -> None:
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    error = float(np.abs(found - expected).max(initial=0.0))
    assert error <= tolerance * scale, f"{law} is broken by {error:.3g} (scale {scale:.3g})"
