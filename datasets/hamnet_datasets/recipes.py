"""Recipes: datasets that make their own geometries, described by TOML cards.

A recipe is a file ``recipes/NAME.toml`` checked by `Recipe`; a path to your own file works too.
"""

import tomllib
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from ase import Atoms
from ase.collections import g2
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hamnet.data.level import LevelOfTheory
from hamnet.errors import HamnetError
from hamnet.interop.ase import from_atoms
from hamnet.registry import did_you_mean
from hamnet.structure import Structure, atomic_number
from hamnet_datasets.smiles import embed

SamplingMethod = Literal["normal-modes", "langevin", "rattle", "frames", "supercells"]
SAMPLING_METHODS: tuple[SamplingMethod, ...] = (
    "normal-modes",
    "langevin",
    "rattle",
    "frames",
    "supercells",
)

Temperature = Annotated[float, Field(gt=0)]
"""Kelvin."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class NormalModes(_Table):
    """Thermal vibrations in the harmonic approximation; independent frames."""

    temperature_k: Temperature
    frames_per_molecule: int = Field(ge=1)


class Langevin(_Table):
    """GFN2-xTB Langevin dynamics; frames of one trajectory belong together.

    Of several temperatures trajectory ``t`` has number ``t`` modulo how many there are.
    """

    temperature_k: Temperature | Annotated[tuple[Temperature, ...], Field(min_length=1)]
    timestep_fs: float = Field(default=0.5, gt=0)
    friction_per_fs: float = Field(default=0.02, gt=0)
    equilibration_fs: float = Field(default=1000.0, ge=0)
    interval_fs: float = Field(default=20.0, gt=0)
    trajectories: int = Field(ge=1)
    frames_per_trajectory: int = Field(ge=1)

    def temperature_of(self, trajectory: int) -> float:
        """Return the temperature of a trajectory, Kelvin."""
        t = self.temperature_k
        return t[trajectory % len(t)] if isinstance(t, tuple) else t


class Rattle(_Table):
    """Gaussian noise on every coordinate, in random orientations; independent frames."""

    sigma_angstrom: float = Field(gt=0)
    frames_per_molecule: int = Field(ge=1)


class Frames(_Table):
    """Geometries that come with the recipe, in a file beside it."""

    file: str
    """NumPy archive with ``Z [N]`` and ``R [F, N, 3]``, Angstrom."""
    train: int = Field(ge=0)
    validation: int = Field(ge=0)
    test: int = Field(ge=0)

    @property
    def n_frames(self) -> int:
        """Number of frames of the file; they go to the subsets in its order."""
        return self.train + self.validation + self.test


class Supercells(_Table):
    """Perturbed supercells of a crystal: noise, strain, sliding layers; independent frames."""

    sigma_angstrom: float = Field(gt=0)
    """Gaussian noise on every coordinate."""
    strain: float = Field(default=0.0, ge=0, lt=0.2)
    """Largest element of a random symmetric strain along the periodic directions."""
    slide: bool = False
    """Layers are moved against each other by a random vector of the cell."""
    spacing_angstrom: float = Field(default=0.0, ge=0)
    """Standard deviation of the distance between layers."""
    sizes: list[tuple[int, int, int, int]]
    """Repetitions along the three lattice vectors, and the number of frames."""

    @property
    def n_frames(self) -> int:
        """Number of frames of all sizes."""
        return sum(size[3] for size in self.sizes)


class Crystal(_Table):
    """The crystal, layer or chain that supercells are made of."""

    symbols: list[str]
    positions: list[tuple[float, float, float]]
    """Angstrom."""
    cell: tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]
    """Lattice vectors as rows, Angstrom; zeros along directions that are not periodic."""
    pbc: tuple[bool, bool, bool]
    layers: list[int] = Field(default_factory=list)
    """Layer of each atom, where layers may slide."""

    def structure(self) -> Structure:
        """Return the unperturbed crystal."""
        numbers = [atomic_number(s) for s in self.symbols]
        return Structure(
            np.array(numbers), np.array(self.positions), np.array(self.cell), np.array(self.pbc)
        )


class Sampling(_Table):
    """How geometries are made; ``method`` is the default, a command may choose another table."""

    method: SamplingMethod
    seed: int = 0
    normal_modes: NormalModes | None = Field(default=None, alias="normal-modes")
    langevin: Langevin | None = None
    rattle: Rattle | None = None
    frames: Frames | None = None
    supercells: Supercells | None = None

    @model_validator(mode="after")
    def _has_its_table(self) -> "Sampling":
        self.table(self.method)
        return self

    def table(
        self, method: SamplingMethod
    ) -> NormalModes | Langevin | Rattle | Frames | Supercells:
        """Return the settings of a method.

        Raises:
            HamnetError: the recipe has no such table.
        """
        table: NormalModes | Langevin | Rattle | Frames | Supercells | None = getattr(
            self, method.replace("-", "_")
        )
        if table is None:
            raise HamnetError(
                f"sampling '{method}' needs the table [sampling.{method}] in the recipe"
            )
        return table


class Units(_Table):
    """Units of the file that a recipe makes; there is no choice, but a reader wants to see it."""

    energy: Literal["Hartree"]
    length: Literal["Angstrom"]
    dipole: Literal["Debye"]


class Recipe(_Table):
    """A dataset card with everything that is needed to make the dataset."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    title: str
    citation: str
    licence: str
    molecules: list[str] = Field(default_factory=list)
    """Names in ASE's g2 collection."""
    closed_shell_g2: str = ""
    """Instead of names: all closed-shell g2 molecules of these elements (``"C H N O F"``)."""
    smiles: list[str] = Field(default_factory=list)
    """Molecules as SMILES (extra ``smiles``)."""
    crystal: Crystal | None = None
    """Instead of molecules: a crystal, for the sampling ``supercells``."""
    units: Units
    level: LevelOfTheory
    sampling: Sampling
    folder: str = Field(default="", exclude=True)
    """Where the recipe lies, for the files beside it; filled in by `load_recipe`."""

    def card(self) -> dict[str, Any]:
        """Return what the dataset file says about itself."""
        chosen = {"name", "title", "citation", "licence", "units", "sampling"}
        return {**self.model_dump(mode="json", include=chosen, by_alias=True), "recipe": self.name}

    def fingerprint(self, method: SamplingMethod) -> str:
        """Return a checksum of what makes the frames of a method; more of them keep it."""
        what = self.model_dump_json(include={"molecules", "closed_shell_g2", "smiles", "crystal"})
        numbers = {"trajectories", "frames_per_trajectory", "frames_per_molecule"}
        how = self.sampling.table(method).model_dump_json(exclude=numbers)
        text = f"{what} {method} {how} {self.sampling.seed}"
        return sha256(text.encode()).hexdigest()

    def geometries(self) -> dict[str, Structure]:
        """Return the molecules to start from, by name.

        Raises:
            HamnetError: no molecule, a name that is not in the g2 collection, or one name for two
                molecules.
        """
        names = list(self.molecules)
        if self.closed_shell_g2:
            elements = set(self.closed_shell_g2.split())
            names += [name for name in sorted(g2.names) if _is_closed_shell(g2[name], elements)]
        if not names and not self.smiles:
            raise HamnetError(
                f"recipe {self.name}: name 'molecules', 'closed_shell_g2' or 'smiles'"
            )
        for name in names:
            if name not in g2.names:
                raise HamnetError(
                    f"recipe {self.name}: unknown molecule '{name}'{did_you_mean(name, g2.names)}"
                )
        every = names + self.smiles
        if twice := sorted({name for name in every if every.count(name) > 1}):
            raise HamnetError(
                f"recipe {self.name}: {', '.join(twice)} is named twice; a SMILES that is also a "
                "name in the g2 collection can be written in another order"
            )
        drawn = {s: embed(s, seed=self.sampling.seed)[0] for s in self.smiles}
        return {name: from_atoms(g2[name]) for name in names} | drawn

    def frames(self) -> list[Structure]:
        """Return the geometries of ``[sampling.frames]``.

        Raises:
            HamnetError: the file is absent, unreadable, or holds another number of frames.
        """
        table = self.sampling.table("frames")
        assert isinstance(table, Frames)
        path = Path(self.folder) / table.file
        try:
            with np.load(path, allow_pickle=False) as file:
                numbers, positions = file["Z"], file["R"]
        except (OSError, KeyError, ValueError) as error:
            raise HamnetError(
                f"recipe {self.name}: {path} is no file of frames: {error}"
            ) from error
        if len(positions) != table.n_frames:
            raise HamnetError(
                f"recipe {self.name}: {path} holds {len(positions)} frames, the recipe divides "
                f"{table.n_frames}"
            )
        return [Structure(numbers, p) for p in positions]


def _is_closed_shell(atoms: Atoms, elements: set[str]) -> bool:
    unpaired = atoms.get_initial_magnetic_moments().any()
    return set(atoms.get_chemical_symbols()) <= elements and not unpaired


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def _folder() -> Path:
    return Path(__file__).parent / "recipes"


def load_recipe(name: str) -> Recipe:
    """Return a shipped recipe, or the one in a TOML file.

    Raises:
        HamnetError: unknown name, no TOML, or keys and values that do not fit; all at once.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise HamnetError(f"{path}: no such file")
    elif name in recipe_names():
        path = _folder() / f"{name}.toml"
    else:
        raise HamnetError(f"unknown recipe '{name}'{did_you_mean(name, recipe_names())}")
    try:
        recipe = Recipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        return recipe.model_copy(update={"folder": str(path.parent)})
    except tomllib.TOMLDecodeError as error:
        raise HamnetError(f"recipe {name} is not TOML: {error}") from error
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}"
            + (_suggest(e) if e["type"] == "extra_forbidden" else "")
            for e in error.errors()
        ]
        raise HamnetError(f"recipe {name}: " + "; ".join(lines)) from error


def _suggest(error: Any) -> str:
    tables = (
        Recipe,
        Crystal,
        Sampling,
        NormalModes,
        Langevin,
        Rattle,
        Frames,
        Supercells,
        LevelOfTheory,
        Units,
    )
    keys = {f.alias or key for table in tables for key, f in table.model_fields.items()}
    return did_you_mean(str(error["loc"][-1]), keys)
