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
    from hamnet.interop.warm_start import warm_start
    from hamnet.models import load_model
    from hamnet.prediction import Prediction
    from hamnet.structure import Structure

    __version__: str

_HOME = {
    "HamiltonianBlocks": "hamnet.blocks",
    "HamnetError": "hamnet.errors",
    "OrbitalBasis": "hamnet.basis",
    "Prediction": "hamnet.prediction",
    "Structure": "hamnet.structure",
    "load_model": "hamnet.models",
    "warm_start": "hamnet.interop.warm_start",
}

__all__ = [
    "HamiltonianBlocks",
    "HamnetError",
    "OrbitalBasis",
    "Prediction",
    "Structure",
    "__version__",
    "load_model",
    "warm_start",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415

        return version("hamnet")
    if name not in _HOME:
        raise AttributeError(f"module 'hamnet' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)
