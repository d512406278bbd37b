"""hamnet learns the electronic-structure Hamiltonian: from a geometry to orbital energies.

The names below are loaded when they are first used: ``import hamnet`` by itself imports neither
torch nor PySCF, so that ``hamnet --help`` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hamnet.basis import OrbitalBasis
    from hamnet.blocks import HamiltonianBlocks
    from hamnet.errors import HamnetError
    from hamnet.inference.calculator import Calculator
    from hamnet.inference.warm_start import warm_start
    from hamnet.models import load_model as load
    from hamnet.prediction import Prediction
    from hamnet.structure import Structure

    __version__: str

_HOME = {
    "Calculator": "hamnet.inference.calculator.Calculator",
    "HamiltonianBlocks": "hamnet.blocks.HamiltonianBlocks",
    "HamnetError": "hamnet.errors.HamnetError",
    "OrbitalBasis": "hamnet.basis.OrbitalBasis",
    "Prediction": "hamnet.prediction.Prediction",
    "Structure": "hamnet.structure.Structure",
    "load": "hamnet.models.files.load_model",
    "warm_start": "hamnet.inference.warm_start.warm_start",
}

__all__ = [
    "Calculator",
    "HamiltonianBlocks",
    "HamnetError",
    "OrbitalBasis",
    "Prediction",
    "Structure",
    "__version__",
    "load",
    "warm_start",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415

        return version("hamnet")
    if name not in _HOME:
        raise AttributeError(f"module 'hamnet' has no attribute '{name}'")
    module, _, attribute = _HOME[name].rpartition(".")
    return getattr(import_module(module), attribute)
