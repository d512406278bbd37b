"""A model as an ASE calculator."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import all_changes
from ase.units import Debye

from hamnet.errors import HamnetError
from hamnet.models import HamiltonianModel, load_model
from hamnet.prediction import Prediction
from hamnet.structure import FloatArray
from hamnet.units import HARTREE_TO_EV

_STATE = ("charge", "spin", "multiplicity")


class Calculator(AseCalculator):  # type: ignore[misc]
    """Energies, dipoles and charges of predicted densities, and orbital energies, in ASE's units.

    The energy is the Kohn-Sham energy of the predicted density, one Fock build by PySCF, made only
    when it is asked for; everything else follows from the predicted matrix. There are no forces.

        >>> atoms.calc = hamnet.Calculator("runs/water")  # doctest: +SKIP
        >>> atoms.get_potential_energy(), atoms.calc.get_eigenvalues()  # doctest: +SKIP

    Charge and spin are those of ``atoms.info``, as in files.

    Args:
        model: a model, or the file or folder of one.
        force: see `HamiltonianModel.predict`.

    Raises:
        HamnetError: see `hamnet.load`.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "dipole", "charges"]

    def __init__(self, model: HamiltonianModel | str | Path, *, force: bool = False) -> None:
        super().__init__()
        self.model = model if isinstance(model, HamiltonianModel) else load_model(model)
        self.force = force
        self._prediction: Prediction | None = None

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what has changed since the last calculation; also charge and spin."""
        changes: list[str] = super().check_state(atoms, tol)
        if self.atoms is not None:
            changes += [key for key in _STATE if atoms.info.get(key) != self.atoms.info.get(key)]
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Compute what is asked for; the prediction is made once for a geometry."""
        super().calculate(atoms, properties, system_changes)
        if self._prediction is None or system_changes:
            (self._prediction,) = self.model.predict([self.atoms], force=self.force)
        found = self._prediction
        for name in properties or ["dipole"]:
            if name == "energy":
                self.results["energy"] = found.total_energy() * HARTREE_TO_EV
            elif name == "dipole":
                self.results["dipole"] = found.dipole * Debye
            elif name == "charges":
                self.results["charges"] = found.charges

    def predict(self, atoms: Atoms | None = None) -> Prediction:
        """Return the whole prediction, of the last geometry if none is given.

        Raises:
            HamnetError: there is no geometry yet; see also `HamiltonianModel.predict`.
        """
        if atoms is not None:
            self.get_property("dipole", atoms)
        if self._prediction is None:
            raise HamnetError("the calculator has seen no atoms yet: give some")
        return self._prediction

    def get_eigenvalues(self, kpt: int = 0, spin: int = 0) -> FloatArray:
        """Return the orbital energies of a spin channel, eV."""
        levels: FloatArray = self.predict().orbital_energies[spin]
        return levels * HARTREE_TO_EV

    def get_occupation_numbers(self, kpt: int = 0, spin: int = 0) -> FloatArray:
        """Return the electrons in each orbital of a spin channel."""
        occupations: FloatArray = self.predict().occupations[spin]
        return occupations

    def get_homo_lumo(self) -> tuple[float, float]:
        """Return HOMO and LUMO over all spins, eV."""
        found = self.predict()
        return found.homo * HARTREE_TO_EV, found.lumo * HARTREE_TO_EV

    def get_fermi_level(self) -> float:
        """Return the middle of the gap, eV."""
        return sum(self.get_homo_lumo()) / 2

    def get_number_of_spins(self) -> int:
        """Return the number of spin channels."""
        return len(self.predict().orbital_energies)

    def get_spin_polarized(self) -> bool:
        """Say whether there are two spin channels."""
        return self.get_number_of_spins() == 2

    def get_ibz_k_points(self) -> FloatArray:
        """Return the one k point of a molecule."""
        return np.zeros((1, 3))

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """Return the model's level of theory, for ASE's files."""
        return {"model": self.model.metadata.data.name, "level": str(self.model.metadata.level)}
