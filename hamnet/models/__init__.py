"""Models: composition of the layers, metadata and files."""

from hamnet.models.files import load_model, save_model
from hamnet.models.model import HamiltonianModel

__all__ = ["HamiltonianModel", "load_model", "save_model"]
