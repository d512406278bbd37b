"""What a model file says about itself."""

import platform
from importlib.metadata import version
from typing import Any

from pydantic import Field

from hamnet.data.level import LevelOfTheory
from hamnet.models.config import ModelConfig
from hamnet.validation import Section

FORMAT_VERSION = 6
"""Version of the model file; raised when an older hamnet could not read a newer file."""


class TrainingData(Section):
    """Where the model learnt.

    Attributes:
        name: name of the dataset.
        licence, citation: of the dataset, empty if none is stated.
        id: hash of the ids of all its records.
        n_train, n_validation, n_test: sizes of the split.
        split_id: hash of the ids of training and validation records.
    """

    name: str = ""
    licence: str = ""
    citation: str = ""
    id: str = ""
    n_train: int = 0
    n_validation: int = 0
    n_test: int = 0
    split_id: str = ""


QUANTITIES = ("homo", "lumo", "gap", "h")
"""What has an uncertainty: three energies, and the root mean square over the elements of H."""


class Calibration(Section):
    """How the readout's covariance becomes an uncertainty.

    Attributes:
        size: inputs of a class after sketching; see `hamnet.nn.covariance`.
        n_frames: validation frames on which the factors were fitted.
        homo, lumo, gap, h: factor of each standard deviation.
    """

    size: int
    n_frames: int = 0
    homo: float = 1.0
    lumo: float = 1.0
    gap: float = 1.0
    h: float = 1.0

    @property
    def factors(self) -> tuple[float, ...]:
        """The four factors, in the order of `QUANTITIES`."""
        return tuple(getattr(self, name) for name in QUANTITIES)


class Parent(Section):
    """The model from which a fine-tuned one started.

    Attributes:
        file: its path at that time.
        sha256: of the file.
        data: name of its training data.
        kept: block types whose weights were taken over.
        new: block types that it did not know.
    """

    file: str
    sha256: str
    data: str = ""
    kept: tuple[str, ...] = ()
    new: tuple[str, ...] = ()


class TrainingRanges(Section):
    """What the training frames looked like; empty where a model does not know.

    Attributes:
        distances: smallest and largest distance of each pair of elements such as ``H-O``, Angstrom,
            of the pairs that have a matrix block.
        neighbours: smallest and largest number of atoms within the message cutoff, by element.
    """

    distances: dict[str, tuple[float, float]] = Field(default_factory=dict)
    neighbours: dict[str, tuple[int, int]] = Field(default_factory=dict)


class Metadata(Section):
    """Everything that is needed to use a model, or to make it again.

    Attributes:
        format_version: see `FORMAT_VERSION`.
        basis: `OrbitalBasis.to_dict`.
        level: level of theory of the labels.
        ao_order: orbital order of the matrices; see `hamnet.basis`.
        pairs: block types that were trained, as element symbols such as ``O`` and ``H-O``.
        charges: total charges in the training data.
        spins: numbers of unpaired electrons in the training data.
        periodic: trained on crystals; else on molecules.
        reference: H0 that is added to what the network gives: ``none``, ``sap``, ``minao``.
        potentials: what is added to the reference, by element: `hamnet.potentials`.
        overlap_floor: eigenvalues of the overlap below which H0 stays alone, `hamnet.correction`.
        n_neighbours: mean number of neighbours, each counted by the square of its message's factor.
        ranges: distances and neighbourhoods in the training data.
        model: size and parts.
        data: dataset and split.
        settings: all settings of the training run.
        seed: of the run.
        versions: of Python and the libraries.
        metrics: of the validation set, the units in the names.
        uncertainty: None where the model cannot say how sure it is.
        parent: of a fine-tuned model.
    """

    format_version: int = FORMAT_VERSION
    basis: dict[str, Any]
    level: LevelOfTheory
    ao_order: str = "hamnet: m = -l..l, no Condon-Shortley sign"
    pairs: tuple[str, ...]
    charges: tuple[int, ...] = (0,)
    spins: tuple[int, ...] = (0,)
    periodic: bool = False
    reference: str = "none"
    potentials: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    overlap_floor: float = Field(default=0.0, ge=0)
    n_neighbours: float = 1.0
    ranges: TrainingRanges = TrainingRanges()
    model: ModelConfig = ModelConfig()
    data: TrainingData = TrainingData()
    settings: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    versions: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    uncertainty: Calibration | None = None
    parent: Parent | None = None


def library_versions() -> dict[str, str]:
    """Return the versions of Python, hamnet and the libraries on which numbers depend."""
    packages = ("hamnet", "torch", "e3nn", "numpy", "scipy", "pyscf", "lightning")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
