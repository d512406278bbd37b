"""Geometries around equilibrium: thermal normal modes (built in), GFN2-xTB dynamics (extra ``md``).

A seed always gives the same geometries. Positions are rounded to 1e-7 Angstrom, so that another
machine's last bits do not make another geometry.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial

import numpy as np
from ase import units as ase_units
from ase.data import atomic_masses
from ase.md.langevin import Langevin as AseLangevin
from pyscf import scf
from pyscf.data import nist
from scipy.spatial.transform import Rotation

from hamnet.data.schema import SUBSETS
from hamnet.errors import HamnetError
from hamnet.integrals import to_mole
from hamnet.interop.ase import to_atoms
from hamnet.structure import FloatArray, Structure
from hamnet.units import BOHR_TO_ANGSTROM
from hamnet_datasets.drawing import DECIMALS, draw
from hamnet_datasets.labels import Known, Task
from hamnet_datasets.recipes import (
    Frames,
    Langevin,
    NormalModes,
    Rattle,
    Recipe,
    SamplingMethod,
    Supercells,
)
from hamnet_datasets.supercells import supercell_frames, supercell_sizes

HESSIAN_BASIS = "sto-3g"
MIN_WAVENUMBER = 200.0
"""1/cm; softer modes (torsions) count as this stiff: straight displacements along them would
stretch bonds."""

_AMU_TO_ELECTRON_MASS = nist.ATOMIC_MASS / nist.E_MASS
_KELVIN_TO_HARTREE = nist.BOLTZMANN / nist.HARTREE2J
_WAVENUMBER_TO_HARTREE = 1.0 / nist.HARTREE2WAVENUMBER


def recipe_tasks(
    recipe: Recipe, *, limit: int | None = None, method: SamplingMethod | None = None
) -> Iterator[Task]:
    """Yield the frames of a recipe, molecule by molecule, made when they are asked for.

    Args:
        recipe: the recipe.
        limit: stop after so many frames.
        method: the recipe's own by default.

    Raises:
        HamnetError: ``langevin`` without tblite; a molecule whose geometry falls apart.
    """
    orders = range(n_frames(recipe, method))[:limit]
    tasks = remaining_tasks(recipe, orders, frozenset(), method=method)
    return (task for task in tasks if isinstance(task, Task))


def remaining_tasks(
    recipe: Recipe,
    orders: range,
    known: AbstractSet[str],
    *,
    method: SamplingMethod | None = None,
) -> Iterator[Task | Known]:
    """Yield some frames of a recipe; no molecule or trajectory is sampled in vain.

    Args:
        recipe: the recipe.
        orders: positions of the frames among all of the recipe.
        known: origins of frames that have a label. They are made only beside one that has none.
        method: the recipe's own by default.

    Raises:
        HamnetError: see `recipe_tasks`.
    """
    first = 0
    for group in _groups(recipe, method or recipe.sampling.method):
        origins = [f"{recipe.name}/{frame}" for frame in group.frames]
        mine = [k for k in range(len(origins)) if first + k in orders]
        if mine and (group.cheap or any(origins[k] not in known for k in mine)):
            for k, structure in enumerate(itertools.islice(group.make(), mine[-1] + 1)):
                if first + k in orders:
                    subset = group.subsets[k] if group.subsets else ""
                    yield Task(structure, origins[k], group.name, first + k, subset)
        else:
            yield from (Known(origins[k]) for k in mine)
        first += len(origins)


def n_frames(recipe: Recipe, method: SamplingMethod | None = None) -> int:
    """Return the number of frames of a recipe.

    Raises:
        HamnetError: the recipe has no settings for this method.
    """
    table = recipe.sampling.table(method or recipe.sampling.method)
    if isinstance(table, Frames | Supercells):
        return table.n_frames
    n_molecules = len(recipe.geometries())
    if isinstance(table, Langevin):
        return n_molecules * table.trajectories * table.frames_per_trajectory
    return n_molecules * table.frames_per_molecule


@dataclass(frozen=True)
class _Group:
    """Frames that are made together.

    Attributes:
        name: of a molecule where there are many, or of a trajectory; empty where every frame is
            independent.
        frames: names of the frames.
        make: makes their geometries.
        subsets: of the frames, where they come with a split.
        cheap: made in no time, and not by the recipe's numbers alone: by a file, say.
    """

    name: str
    frames: Sequence[str]
    make: Callable[[], Iterable[Structure]]
    subsets: Sequence[str] = ()
    cheap: bool = False


def _groups(recipe: Recipe, method: SamplingMethod) -> Iterator[_Group]:
    table = recipe.sampling.table(method)
    if isinstance(table, Frames):
        sizes = (table.train, table.validation, table.test)
        subsets = [name for name, n in zip(SUBSETS, sizes, strict=True) for _ in range(n)]
        names = [f"frame-{f}" for f in range(len(subsets))]
        yield _Group("", names, recipe.frames, subsets, cheap=True)
        return
    if isinstance(table, Supercells):
        repeats = ["x".join(map(str, size)) for size in supercell_sizes(table)]
        names = [f"{size}/{f}" for f, size in enumerate(repeats)]
        yield _Group("", names, partial(supercell_frames, recipe, table), cheap=True)
        return
    molecules = recipe.geometries()
    many = len(molecules) > 1
    for k, (name, structure) in enumerate(molecules.items()):
        seed = [recipe.sampling.seed, k]
        if isinstance(table, Langevin):
            for t in range(table.trajectories):
                trajectory = f"{name}/trajectory-{t}"
                names = [f"{trajectory}/{f}" for f in range(table.frames_per_trajectory)]
                run = partial(langevin_frames, structure, table, seed, t)
                yield _Group(name if many else trajectory, names, run)
        else:
            names = [f"{name}/{f}" for f in range(table.frames_per_molecule)]
            run = partial(independent_frames, structure, table, seed)
            yield _Group(name if many else "", names, run)


def hessian(structure: Structure) -> FloatArray:
    """Return the Hartree-Fock/STO-3G Hessian, Hartree/Bohr^2, ``[3N, 3N]``.

    A force model for sampling only: seconds for ten heavy atoms, right in its proportions.

    Raises:
        HamnetError: an element without STO-3G basis; no convergence.
    """
    mf = scf.HF(to_mole(structure, HESSIAN_BASIS))
    mf.chkfile = None
    mf.kernel()
    if not mf.converged:
        raise HamnetError(
            f"no normal modes for {structure.formula}: Hartree-Fock/{HESSIAN_BASIS} does not "
            "converge at the starting geometry"
        )
    n = 3 * len(structure)
    return np.asarray(mf.Hessian().kernel()).transpose(0, 2, 1, 3).reshape(n, n)


def vibration_root(structure: Structure, temperature_k: float) -> FloatArray:
    """Return A with ``x = A z``, ``z ~ N(0, 1)``: displacements of thermal vibrations, Angstrom.

    The quantum harmonic distribution (thermal Wigner function): along a mode of frequency w the
    mass-weighted variance is ``coth(w / 2kT) / 2w``. A is a function of the Hessian as a matrix, so
    that it does not depend on signs and mixtures of eigenvectors. Shape ``[3N, 3N]``.
    """
    mass = np.repeat(atomic_masses[structure.numbers] * _AMU_TO_ELECTRON_MASS, 3)  # (3N,)
    weighted = hessian(structure) / np.sqrt(np.outer(mass, mass))
    rigid = _rigid_motions(structure, mass)  # (3N, 5 or 6)
    internal = np.eye(len(mass)) - rigid @ rigid.T
    w2, modes = np.linalg.eigh(internal @ weighted @ internal)
    floor = MIN_WAVENUMBER * _WAVENUMBER_TO_HARTREE
    w = np.sqrt(np.maximum(w2, floor**2))
    sigma = np.sqrt(1.0 / (2.0 * w * np.tanh(w / (2.0 * _KELVIN_TO_HARTREE * temperature_k))))
    root = internal @ (modes * sigma) @ modes.T @ internal
    scaled: FloatArray = root / np.sqrt(mass)[:, None] * BOHR_TO_ANGSTROM
    return scaled


def _rigid_motions(structure: Structure, mass: FloatArray) -> FloatArray:
    """Return an orthonormal basis of mass-weighted translations and rotations."""
    weight = np.sqrt(mass[::3])  # (N,)
    centre = np.average(structure.positions, axis=0, weights=mass[::3])
    arms = structure.positions - centre
    moves = []
    for axis in np.eye(3):
        moves.append((weight[:, None] * axis).ravel())
        moves.append((weight[:, None] * np.cross(axis, arms)).ravel())
    vectors, size, _ = np.linalg.svd(np.array(moves).T, full_matrices=False)
    basis: FloatArray = vectors[:, size > 1e-6 * size.max()]  # five of a linear molecule
    return basis


def independent_frames(
    structure: Structure, settings: NormalModes | Rattle, seed: list[int]
) -> Iterator[Structure]:
    """Yield independent geometries, thermal ones or with Gaussian noise, in random orientations.

    Raises:
        HamnetError: nearly all geometries have atoms that touch.
    """
    if isinstance(settings, Rattle):
        root = settings.sigma_angstrom * np.eye(3 * len(structure))
    else:
        root = vibration_root(structure, settings.temperature_k)
    rng = np.random.default_rng(seed)
    for _ in range(settings.frames_per_molecule):
        yield draw(partial(_shaken, structure, root, rng))


def _shaken(structure: Structure, root: FloatArray, rng: np.random.Generator) -> Structure:
    moved = structure.positions + (root @ rng.standard_normal(len(root))).reshape(-1, 3)
    return _moved(structure, Rotation.from_quat(rng.standard_normal(4)).apply(moved))


def _moved(structure: Structure, positions: FloatArray) -> Structure:
    return Structure(
        numbers=structure.numbers,
        positions=np.round(positions, DECIMALS),
        charge=structure.charge,
        spin=structure.spin,
    )


def langevin_frames(
    structure: Structure, settings: Langevin, seed: list[int], trajectory: int
) -> Iterator[Structure]:
    """Yield frames of one GFN2-xTB Langevin trajectory after its equilibration.

    Raises:
        HamnetError: tblite is not installed.
    """
    try:
        from tblite.ase import TBLite  # noqa: PLC0415  (an extra: most users label without it)
    except ImportError as error:
        raise HamnetError(
            "Langevin dynamics needs tblite: pip install 'hamnet[md]', or sample the built-in "
            "normal modes with '--sampling normal-modes'"
        ) from error
    rng = np.random.default_rng([*seed, trajectory])
    temperature = settings.temperature_of(trajectory)
    atoms = to_atoms(structure)
    atoms.calc = TBLite(method="GFN2-xTB", charge=structure.charge, verbosity=0)
    spread = np.sqrt(atoms.get_masses() * ase_units.kB * temperature)
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * spread[:, None])
    dynamics = AseLangevin(
        atoms,
        settings.timestep_fs * ase_units.fs,
        temperature_K=temperature,
        friction=settings.friction_per_fs / ase_units.fs,
        fixcm=False,  # fixing the centre of mass would not sample the right ensemble
        rng=rng,
    )
    dynamics.run(round(settings.equilibration_fs / settings.timestep_fs))
    for _ in range(settings.frames_per_trajectory):
        dynamics.run(round(settings.interval_fs / settings.timestep_fs))
        yield _moved(structure, atoms.positions - atoms.get_center_of_mass())
