"""Choose the frames whose labels would teach a model most."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from scipy.spatial import KDTree
from scipy.spatial.distance import pdist
from torch import Tensor

from hamnet.data.samples import Sample, batch_samples
from hamnet.errors import HamnetError
from hamnet.models import HamiltonianModel
from hamnet.models.uncertainty import Propagation, Seen
from hamnet.structure import FloatArray, Structure
from hamnet.units import HARTREE_TO_UHA

N_DIRECTIONS = 128
"""Combinations of the inputs of a class that are looked at; 384 choose no better frames."""

RIDGE = 1e-7
"""Of the posterior, relative to the mean diagonal of the normal matrix: labels are nearly exact.
With 1e-5 a frame very close to a labelled one may be chosen before all that is new is."""

SAME = 1e-4
"""Angstrom; frames are the same if none of their interatomic distances differs by more."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A frame of the pool, as the readout sees it.

    Attributes:
        rows: whitened inputs of each class, ``(n, k)``: ``z.z = x A^-1 x``.
        size: of its matrix, relative to the mean of the pool.
    """

    rows: dict[str, Tensor]
    size: float


@dataclass(frozen=True)
class Chosen:
    """A frame that was chosen.

    Attributes:
        index: position in the pool.
        h_std_uha: predicted root mean square error of H before any frame was chosen, µHa.
        left: share of the pool's predicted squared error of H that is left once this frame and
            those before it are labelled.
    """

    index: int
    h_std_uha: float
    left: float


@dataclass(frozen=True)
class Selection:
    """What was chosen from a pool.

    Attributes:
        chosen: the most informative first.
        refused: why the model cannot judge a frame, by its position in the pool.
        known: positions of frames that have labels already; they are not chosen.
    """

    chosen: tuple[Chosen, ...]
    refused: Mapping[int, str]
    known: tuple[int, ...]


def select(
    model: HamiltonianModel,
    labelled: Sequence[Structure],
    pool: Sequence[Structure],
    n: int,
    *,
    batch_size: int = 32,
    advance: Callable[[int, str], None] | None = None,
) -> Selection:
    """Return the frames to be labelled, the most informative first.

    Greedy: each next frame is the one that, together with those before it, leaves the smallest
    predicted squared error of H over the whole pool. With ``A`` the normal matrix of a class of
    irreps, ``M`` the sum of ``x x^T`` over the pool and ``X`` the rows of a frame,

        gain = sum over classes of  s^2 tr[(1 + X A^-1 X^T)^-1  X A^-1 M A^-1 X^T],

    and then ``A <- A + X^T X``. The labels themselves do not enter. Ash, Goel, Krishnamurthy &
    Kakade (BAIT, arXiv 2106.09675); frames that are all alike are not chosen twice, and outliers
    that teach nothing about the others are not chosen at all. Gains are only computed again for
    frames that could be the best.

    ``A`` is that of the labelled frames, with all inputs. What is looked at are the combinations
    of inputs in which the pool varies most beyond them: the generalised eigenvectors
    ``M v = mu A v`` of the largest ``mu``. Random combinations, which are good enough for the
    uncertainty of a frame (`hamnet.nn.covariance`), choose no better than chance from few labels.
    A frame of the pool that has a label already is looked at, but never chosen.

    Args:
        model: with an uncertainty, which sets the variances ``s^2`` of the classes.
        labelled: frames that have labels, the training frames of the model among them.
        pool: frames without labels; a quarter of a megabyte for one of ethanol.
        n: how many; all of them where the pool is smaller.
        batch_size: frames that the model gets at once.
        advance: is told the number of frames looked at: the labelled ones once, the pool twice.

    Raises:
        HamnetError: the model has no uncertainty, or accepts no frame of the pool or none of the
            labelled ones, or all of the pool have labels.
    """
    propagation, scale = model.propagation, model.metadata.uncertainty
    if propagation is None or scale is None:
        raise HamnetError(
            "the model does not know how sure it is: train it with validation frames, and with "
            "readout.solve and readout.uncertainty left on"
        )
    known, _ = _samples(model, labelled)
    samples, refused = _samples(model, pool)
    if not known:
        raise HamnetError(f"the model accepts none of the {len(labelled)} labelled frames")
    if not samples:
        reason = f", the first because {next(iter(refused.values()))}" if refused else ""
        raise HamnetError(f"there is no frame to choose from: {len(refused)} are refused{reason}")
    accepted, same = list(samples), _same(labelled, pool)
    free = [k for k, frame in enumerate(accepted) if frame not in same]
    if not free:
        raise HamnetError(f"nothing to choose: all {len(accepted)} frames have labels already")
    n_orbitals = np.array([sample.layouts[0].n_orbitals for sample in samples.values()])
    sizes = n_orbitals / n_orbitals.mean()
    look = _Look(model, propagation, batch_size, advance)
    labelled_sums, pool_sums = _Sums(np.ones(len(known))), _Sums(sizes)
    for first, seen in look(known.values()):
        labelled_sums.add(first, seen)
    for first, seen in look(samples.values()):
        pool_sums.add(first, seen)
    bases, weights = {}, {}
    for name, moment in pool_sums.moments.items():
        bases[name], spread = _directions(labelled_sums.moments.get(name), moment)
        weights[name] = pool_sums.errors[name] / spread
    candidates = [Candidate({}, float(size)) for size in sizes]
    for first, seen in look(samples.values()):
        z = (seen.x @ bases[seen.name]).float().cpu()
        owner = seen.owner.cpu()
        for k in torch.unique(owner).tolist():
            candidates[first + k].rows[seen.name] = z[owner == k].flatten(0, 1)
    entries = n_orbitals.mean() * np.sqrt(model.spin_kind)
    stds = HARTREE_TO_UHA * scale.h * np.sqrt(pool_sums.squares) / entries
    chosen = _Greedy(candidates, weights).run(n, free)
    return Selection(
        tuple(Chosen(accepted[k], float(stds[k]), left) for k, left in chosen),
        refused,
        tuple(sorted(same)),
    )


def _same(labelled: Sequence[Structure], pool: Sequence[Structure]) -> set[int]:
    """Return the positions of the frames of a pool that are among the labelled ones.

    Moved, turned and mirrored frames are the same; the atoms must have the same order.
    """

    def distances(s: Structure) -> FloatArray:
        return np.append(pdist(s.positions), 0.0)  # a single atom has none

    known: dict[tuple[bytes, int, int], list[FloatArray]] = {}
    for s in labelled:
        known.setdefault(s.kind, []).append(distances(s))
    trees = {kind: KDTree(np.array(rows)) for kind, rows in known.items()}
    return {
        k
        for k, s in enumerate(pool)
        if (tree := trees.get(s.kind))
        and np.isfinite(tree.query(distances(s), p=np.inf, distance_upper_bound=SAME)[0])
    }


def _samples(
    model: HamiltonianModel, pool: Sequence[Structure]
) -> tuple[dict[int, Sample], dict[int, str]]:
    samples: dict[int, Sample] = {}
    refused: dict[int, str] = {}
    for k, structure in enumerate(pool):
        try:
            model.check(structure)
            samples[k] = model.sample(structure)
        except HamnetError as error:
            refused[k] = str(error)
    return samples, refused


class _Look:
    """Shows structures to the model, one batch after the other."""

    def __init__(
        self,
        model: HamiltonianModel,
        propagation: Propagation,
        batch_size: int,
        advance: Callable[[int, str], None] | None,
    ) -> None:
        self.model, self.propagation, self.batch_size = model, propagation, batch_size
        self.advance, self.done = advance, 0

    @torch.inference_mode()
    def __call__(self, structures: Iterable[Sample]) -> Iterator[tuple[int, Seen]]:
        """Yield what the readout sees of each batch, and the number of its first structure."""
        samples = list(structures)
        for first in range(0, len(samples), self.batch_size):
            batch = samples[first : first + self.batch_size]
            for seen in self.propagation.seen(self.model.infer(batch_samples(batch))):
                yield first, seen
            self.done += len(batch)
            if self.advance:
                self.advance(self.done, "")


class _Sums:
    """Sums over structures, each divided by the square of its size.

    Attributes:
        moments: ``sum x x^T`` of each class, ``(n_in, n_in)``.
        errors: predicted squared error of the entries of each class, Hartree^2.
        squares: predicted squared error of each structure.

    Args:
        sizes: of the structures.
    """

    def __init__(self, sizes: FloatArray) -> None:
        self.sizes = torch.from_numpy(sizes)
        self.moments: dict[str, Tensor] = {}
        self.errors: dict[str, float] = {}
        self.squares = np.zeros(len(sizes))

    def add(self, first: int, seen: Seen) -> None:
        """Add what is seen of structures, the first of which is number ``first``."""
        owner = first + seen.owner.cpu()
        size = self.sizes[owner]
        x = (seen.x / size.to(seen.x)[:, None, None]).flatten(0, 1)
        square = seen.square.cpu() / size.square()
        name, n = seen.name, x.shape[1]
        self.moments.setdefault(name, x.new_zeros(n, n)).add_(x.T @ x)
        self.errors[name] = self.errors.get(name, 0.0) + float(square.sum())
        np.add.at(self.squares, owner.numpy(), square.numpy())


def _directions(labelled: Tensor | None, pool: Tensor) -> tuple[Tensor, float]:
    """Return where a pool varies most beyond the labelled frames, and how much in all.

    Args:
        labelled: ``sum x x^T`` over the labelled frames; None where they have no row.
        pool: M, the same over the pool, ``(n_in, n_in)``.

    Returns:
        Columns ``v`` with ``v^T A v = 1``, ``(n_in, k)``, and ``tr(A^-1 M)``.
    """
    known = torch.zeros_like(pool) if labelled is None else labelled
    # Units of the weights as those of the solved readout, of inputs that are new as well.
    unit = (known + pool).diagonal().clamp(min=1e-300).pow(-0.25)
    a, m = ((unit[:, None] * x * unit).cpu().numpy() for x in (known, pool))
    a[np.diag_indices_from(a)] += RIDGE * (a + m).trace() / len(a)
    kept = (max(0, len(a) - N_DIRECTIONS), len(a) - 1)
    _, v = scipy.linalg.eigh(m, a, subset_by_index=kept)
    spread = float(np.trace(scipy.linalg.solve(a, m, assume_a="pos")))
    return unit[:, None] * torch.from_numpy(v).to(unit), spread


class _Greedy:
    """The state of the greedy choice: ``B = A^-1`` and ``M`` of each class, whitened."""

    def __init__(self, candidates: Sequence[Candidate], weights: dict[str, float]) -> None:
        self.candidates = candidates
        self.b: dict[str, Tensor] = {}
        self.m: dict[str, Tensor] = {}
        for candidate in candidates:
            for name, rows in candidate.rows.items():
                z = rows.double()
                if name not in self.b:
                    self.b[name] = torch.eye(z.shape[1], dtype=z.dtype)
                    self.m[name] = torch.zeros_like(self.b[name])
                self.m[name] += weights[name] / candidate.size**2 * z.T @ z

    def run(self, n: int, free: Sequence[int]) -> list[tuple[int, float]]:
        """Return the n best of those that may be chosen, and what each leaves of the error."""
        total = left = self.expected_error()
        gains = np.full(len(self.candidates), -np.inf)
        gains[free] = [self.gain(k) for k in free]
        fresh = np.zeros(len(gains), dtype=int)  # round in which a gain was computed
        chosen = []
        for turn in range(min(n, len(free))):
            while fresh[best := int(gains.argmax())] < turn:
                gains[best], fresh[best] = self.gain(best), turn
            left -= gains[best]
            chosen.append((best, float(left / total)))
            self.add(best)
            gains[best] = -np.inf
        return chosen

    def expected_error(self) -> float:
        """Return the predicted squared error of the pool, up to a factor."""
        return sum(float((self.b[name] * m).sum()) for name, m in self.m.items())

    def gain(self, k: int) -> float:
        """Return by how much the label of a frame would reduce it."""
        return sum(
            float((torch.linalg.solve(self._noise(z, zb), zb @ self.m[name]) * zb).sum())
            for name, z, zb in self._rows(k)
        )

    def add(self, k: int) -> None:
        """Take a frame as labelled (Woodbury)."""
        for name, z, zb in list(self._rows(k)):
            self.b[name] = self.b[name] - zb.T @ torch.linalg.solve(self._noise(z, zb), zb)

    def _rows(self, k: int) -> Sequence[tuple[str, Tensor, Tensor]]:
        rows = ((name, z.double()) for name, z in self.candidates[k].rows.items())
        return [(name, z, z @ self.b[name]) for name, z in rows]

    @staticmethod
    def _noise(z: Tensor, zb: Tensor) -> Tensor:
        return torch.eye(len(z), dtype=z.dtype) + zb @ z.T
