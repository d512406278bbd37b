"""The generalised eigenproblem against SciPy and against PySCF's own orbitals."""

import numpy as np
import pytest
import scipy.linalg
import torch

from hamnet.blocks import to_dense
from hamnet.errors import HamnetError
from hamnet.spectrum import solve


def pencil(n, rng, smallest=1e-2, complex_=False):
    def random(shape):
        return rng.normal(size=shape) + (1j * rng.normal(size=shape) if complex_ else 0)

    h = random((n, n))
    q, _ = np.linalg.qr(random((n, n)))
    s = q @ np.diag(np.geomspace(smallest, 3.0, n)) @ q.conj().T
    return (h + h.conj().T) / 2, (s + s.conj().T) / 2


@pytest.mark.parametrize("complex_", [False, True])
def test_batch_agrees_with_scipy(rng, complex_):
    pencils = [pencil(9, rng, complex_=complex_) for _ in range(3)]
    h, s = (torch.from_numpy(np.stack(m)) for m in zip(*pencils, strict=True))
    found = solve(h, s)
    for k, (one, two) in enumerate(pencils):
        assert np.allclose(found.energies[k], scipy.linalg.eigh(one, two)[0], atol=1e-11)
    c = found.coefficients
    eye = torch.eye(9, dtype=c.dtype)
    assert torch.allclose(c.mH @ s @ c, eye.expand_as(s), atol=1e-11)
    assert not found.n_dropped.any()


def test_linear_dependence_is_cut_and_reported(rng):
    """The same energies as with the redundant direction removed by hand."""
    h, s = pencil(6, rng)
    extra = rng.normal(size=(6, 1))
    wide = np.hstack([np.eye(6), extra])  # the seventh function is a sum of the others
    found = solve(torch.from_numpy(wide.T @ h @ wide), torch.from_numpy(wide.T @ s @ wide))
    assert int(found.n_dropped) == 1
    assert np.allclose(found.energies, scipy.linalg.eigh(h, s)[0], atol=1e-9)


def test_batch_with_one_dependent_basis_is_padded(rng):
    good = pencil(4, rng)
    bad_h, bad_s = pencil(4, rng)
    bad_s[:, 3] = bad_s[:, 2]
    bad_s[3, :] = bad_s[2, :]
    bad_h[:, 3] = bad_h[:, 2]
    bad_h[3, :] = bad_h[2, :]
    h = torch.from_numpy(np.stack([good[0], bad_h]))
    s = torch.from_numpy(np.stack([good[1], bad_s]))
    found = solve(h, s)
    assert found.n_dropped.tolist() == [0, 1]
    assert torch.isinf(found.energies[1, 3])
    assert np.allclose(found.energies[0], scipy.linalg.eigh(*good)[0], atol=1e-11)


def test_nothing_left_and_not_finite_are_errors():
    eye = torch.eye(3, dtype=torch.float64)
    with pytest.raises(HamnetError, match="coincide"):
        solve(eye, 0 * eye)
    with pytest.raises(HamnetError, match="Hamiltonian is not finite"):
        solve(eye * torch.nan, eye)


def test_stored_matrices_give_pyscf_orbital_energies(water_records):
    for record in water_records:
        h, s = (torch.from_numpy(to_dense(record.blocks(n))) for n in ("hamiltonian", "overlap"))
        found = solve(h, s[None])
        assert np.abs(found.energies.numpy() - record.orbital_energies).max() < 1e-9
