"""What this installation has, and whether it computes correctly: ``hamnet doctor``."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from hamnet.blocks import to_dense
from hamnet.data.level import LevelOfTheory
from hamnet.integrals import basis_for, overlap
from hamnet.interop.pyscf import n_threads
from hamnet.models.metadata import library_versions
from hamnet.references import reference_hamiltonian
from hamnet.structure import Structure
from hamnet.testing import (
    TOLERANCE,
    check_rotation,
    moved,
    random_model,
    random_rotation,
    rotate_orbitals,
)

EXTRAS = {
    "md": ("tblite", "thermal geometries by GFN2-xTB dynamics"),
    "smiles": ("rdkit", "geometries from SMILES"),
    "gpu": ("gpu4pyscf-cuda12x", "labels and SCF on a GPU"),
    "cluster": ("dask-jobqueue", "labels on a batch cluster"),
    "bands": ("pypardiso", "bands of large crystals, by MKL's PARDISO"),
}
"""Optional dependencies: what each extra installs, and what it is good for."""

_MOLECULE = Structure(
    np.array([8, 9, 1]), np.array([[0.0, 0.1, 0.0], [0.3, 1.4, -0.1], [-0.2, -0.3, 0.9]])
)


def examine() -> dict[str, Any]:
    """Return versions, devices, threads, compiler, extras and the outcome of the self-tests."""
    return {
        "versions": library_versions(),
        "executable": sys.executable,
        "devices": _devices(),
        "threads": {
            "torch": torch.get_num_threads(),
            "pyscf": n_threads(),
            "processors": os.cpu_count(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        },
        "compiler": compiler(),
        "extras": extras(),
        "self_tests": [
            _run("equivariance under a rotation with inversion", check_equivariance),
            _run("orbital order of PySCF", check_orbital_order),
        ],
    }


def _devices() -> list[str]:
    return ["cpu", *(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count()))]


def compiler() -> str | None:
    """Return path and version of the C++ compiler that torch.compile would use, None if absent."""
    names = (os.environ.get("CXX"), "g++", "clang++")
    path = next((found for name in names if name and (found := shutil.which(name))), None)
    if path is None:
        return None
    answer = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return f"{path} ({(answer.stdout.splitlines() or ['version unknown'])[0]})"


def extras() -> list[dict[str, Any]]:
    """Return every optional dependency: extra, package, purpose, version (or None), pip line."""
    found = []
    for extra, (package, purpose) in EXTRAS.items():
        try:
            present: str | None = version(package)
        except PackageNotFoundError:
            present = None
        found.append(
            {
                "extra": extra,
                "package": package,
                "purpose": purpose,
                "version": present,
                "install": f"pip install 'hamnet[{extra}]'",
            }
        )
    return found


def check_equivariance() -> None:
    """Check a small random model: H of the mirrored and turned molecule is the turned H.

    Raises:
        AssertionError: it is not, to the accuracy of float64.
    """
    model = random_model("def2-svp", [1, 8, 9])
    check_rotation(model, _MOLECULE, improper=True)


def check_orbital_order() -> None:
    """Check that PySCF's matrices, in hamnet's orbital order, rotate as they should; s to f shells.

    Overlap and kinetic energy with atomic potentials: analytic integrals, no grid.

    Raises:
        AssertionError: they do not, to the accuracy of float64.
    """
    level = LevelOfTheory(xc="pbe", basis="def2-tzvp")
    basis = basis_for(_MOLECULE, level.basis)
    rotation = random_rotation(np.random.default_rng(1), improper=True)
    d = rotate_orbitals(basis, _MOLECULE.numbers, rotation)
    turned = moved(_MOLECULE, _MOLECULE.positions @ rotation.T)
    before, after = (
        {
            "overlap": to_dense(overlap(structure, basis)),
            "Hamiltonian": to_dense(reference_hamiltonian(structure, level, "sap", basis)),
        }
        for structure in (_MOLECULE, turned)
    )
    for name, matrix in before.items():
        expected = d @ matrix @ d.T
        scale = max(1.0, float(np.abs(expected).max()))
        error = float(np.abs(after[name] - expected).max()) / scale
        assert error < TOLERANCE, f"the {name} of a rotated molecule is wrong by {error:.1e}"


def _run(name: str, check: Callable[[], None]) -> dict[str, Any]:
    start = time.perf_counter()
    problem = ""
    try:
        check()
    except Exception as error:  # a broken installation fails in every possible way
        problem = f"{type(error).__name__}: {error}"
    seconds = round(time.perf_counter() - start, 3)
    return {"name": name, "passed": not problem, "problem": problem, "seconds": seconds}
