"""Geometries from SMILES by RDKit (extra ``smiles``): ETKDG embedding, then a force field."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hamnet.errors import HamnetError
from hamnet.interop.ase import Frame
from hamnet.structure import Structure

SMILES_SUFFIX = ".smi"
_DECIMALS = 7
"""Another machine's last bits must not make another geometry."""


def embed(smiles: str, *, conformers: int = 1, seed: int = 0) -> list[Structure]:
    """Return geometries of a molecule, Angstrom; charge and spin are those of the formula.

    Args:
        smiles: the formula.
        conformers: how many geometries; close ones are not removed.
        seed: of the embedding; the same seed gives the same geometries.

    Raises:
        HamnetError: RDKit is missing, does not understand the formula, or cannot embed it.
    """
    chem, all_chem = _rdkit()
    molecule = chem.MolFromSmiles(smiles)
    if molecule is None:
        raise HamnetError(f"'{smiles}' is no SMILES that RDKit understands")
    molecule = chem.AddHs(molecule)
    parameters = all_chem.ETKDGv3()
    parameters.randomSeed = seed
    ids = list(all_chem.EmbedMultipleConfs(molecule, conformers, parameters))
    if len(ids) < conformers:
        raise HamnetError(f"RDKit made {len(ids)} of {conformers} geometries of '{smiles}'")
    if all_chem.MMFFHasAllMoleculeParams(molecule):
        all_chem.MMFFOptimizeMoleculeConfs(molecule, maxIters=2000)
    else:
        all_chem.UFFOptimizeMoleculeConfs(molecule, maxIters=2000)
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    spin = sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())
    charge = chem.GetFormalCharge(molecule)
    return [
        Structure(
            numbers,
            np.round(molecule.GetConformer(k).GetPositions(), _DECIMALS),
            charge=charge,
            spin=spin,
        )
        for k in ids
    ]


def read_smiles(path: Path, *, conformers: int = 1, seed: int = 0) -> Iterator[Frame]:
    """Yield the geometries of a list of SMILES, one a line, a name behind it if there is one.

    Raises:
        HamnetError: no such file, no SMILES in it, or no RDKit. What is wrong with a single line
            is not raised but yielded.
    """
    if not path.is_file():
        raise HamnetError(f"{path}: no such file")
    _rdkit()
    index = 0
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        smiles, *name = line.split(maxsplit=1)
        group = name[0].strip() if name else smiles
        try:
            made: list[Structure | HamnetError] = list(
                embed(smiles, conformers=conformers, seed=seed)
            )
        except HamnetError as error:
            made = [error.at(f"{path}, line {number}")]
        for k, structure in enumerate(made):
            yield Frame(index, f"{path}, line {number}, conformer {k}", structure, group)
            index += 1
    if index == 0:
        raise HamnetError(f"{path}: the file holds no SMILES")


def _rdkit() -> tuple[Any, Any]:
    try:
        from rdkit import Chem, rdBase  # noqa: PLC0415
        from rdkit.Chem import AllChem  # noqa: PLC0415
    except ImportError as error:
        raise HamnetError(
            "SMILES need RDKit: pip install 'hamnet[smiles]'; or give a file with geometries"
        ) from error
    rdBase.DisableLog("rdApp.*")  # what goes wrong is in our own messages
    return Chem, AllChem
