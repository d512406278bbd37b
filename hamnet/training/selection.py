"""Choose the frames whose labels would teach a model most."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hamnet.blocks import molecule_layout
from hamnet.data.samples import Sample, batch_samples, make_sample
from hamnet.errors import HamnetError
from hamnet.models import HamiltonianModel
from hamnet.nn.readout import block_rows
from hamnet.structure import Structure
from hamnet.units import HARTREE_TO_UHA


@dataclass(frozen=True, eq=False)
class Candidate:
    """A frame of the pool, as the readout sees it.

    Attributes:
        rows: whitened inputs of each class, ``(n, k)``; see `hamnet.nn.covariance`.
        std: predicted root mean square error of H, Hartree.
        n_orbitals: size of its matrix.
    """

    rows: dict[str, Tensor]
    std: float
    n_orbitals: int


@dataclass(frozen=True)
class Chosen:
    """A frame that was chosen.

    Attributes:
        index: position in the pool.
        h_std_uha: predicted root mean square error of H before any frame was chosen, µHa.
        left: share of the pool's mean squared error of H that is predicted to be left once this
            frame and those before it are labelled.
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
    """

    chosen: tuple[Chosen, ...]
    refused: Mapping[int, str]


def select(
    model: HamiltonianModel,
    pool: Sequence[Structure],
    n: int,
    *,
    batch_size: int = 32,
    advance: Callable[[int, str], None] | None = None,
) -> Selection:
    """Return the frames to be labelled, the most informative first.

    Greedy: each next frame is the one that, together with those before it, leaves the smallest
    predicted squared error of H, averaged over the whole pool. With ``A`` the normal matrix of a
    class of irreps, ``M`` the sum of ``x x^T`` over the pool and ``X`` the rows of a frame,

        gain = sum over classes of  s^2 tr[(1 + X A^-1 X^T)^-1  X A^-1 M A^-1 X^T],

    and then ``A <- A + X^T X``. The labels themselves do not enter. Ash, Goel, Krishnamurthy &
    Kakade (BAIT, arXiv 2106.09675); frames that are all alike are not chosen twice, and outliers
    that teach nothing about the others are not chosen at all. Gains are only computed again for
    frames that could be the best.

    Args:
        model: with an uncertainty.
        pool: frames without labels; a quarter of a megabyte for one of ethanol.
        n: how many; all of them where the pool is smaller.
        batch_size: frames that the model gets at once.
        advance: is told the number of frames looked at.

    Raises:
        HamnetError: the model has no uncertainty, or accepts no frame of the pool.
    """
    samples, refused = _samples(model, pool)
    if not samples:
        reason = f", the first because {next(iter(refused.values()))}" if refused else ""
        raise HamnetError(f"there is no frame to choose from: {len(refused)} are refused{reason}")
    candidates: list[Candidate] = []
    weights: dict[str, float] = {}
    accepted = list(samples)
    for start in range(0, len(accepted), batch_size):
        batch = [samples[k] for k in accepted[start : start + batch_size]]
        found, more = look_at(model, batch)
        candidates += found
        weights |= more
        if advance:
            advance(len(candidates), "")
    chosen = _Greedy(candidates, weights).run(min(n, len(candidates)))
    return Selection(tuple(replace(one, index=accepted[one.index]) for one in chosen), refused)


def _samples(
    model: HamiltonianModel, pool: Sequence[Structure]
) -> tuple[dict[int, Sample], dict[int, str]]:
    samples: dict[int, Sample] = {}
    refused: dict[int, str] = {}
    for k, structure in enumerate(pool):
        try:
            model.check(structure)
            layout = molecule_layout(model.basis.atom_offsets(structure.numbers))
            sample = make_sample(
                structure, layout, model.basis, model.cutoffs, spin_kind=model.spin_kind
            )
            model.check_pairs(sample.graph)
        except HamnetError as error:
            refused[k] = str(error)
        else:
            samples[k] = sample
    return samples, refused


@torch.inference_mode()
def look_at(
    model: HamiltonianModel, samples: Sequence[Sample]
) -> tuple[list[Candidate], dict[str, float]]:
    """Return structures as the readout sees them, and the weight of each class, Hartree^2.

    Raises:
        HamnetError: the model has no uncertainty.
    """
    propagation, scale = model.propagation, model.metadata.uncertainty
    if propagation is None or scale is None:
        raise HamnetError(
            "the model does not know how sure it is: train it with validation frames, and with "
            "readout.solve and readout.uncertainty left on"
        )
    run = model.infer(batch_samples(samples))
    graph = run.batch.graph
    rows: list[dict[str, Tensor]] = [{} for _ in samples]
    square = np.zeros(len(samples))
    weights = {}
    for t, c, name, z in propagation.whitened(run):
        square_scale = float(propagation.scale(t, c, name).square().sum())
        weights[name] = square_scale * (1 if t.on_site else 2)
        chosen = block_rows(graph, t)
        owner = graph.structure[chosen if t.on_site else graph.pairs[0, chosen]]
        for k in torch.unique(owner).tolist():
            own = z[owner == k].flatten(0, 1)
            rows[k][name] = own.float().cpu()
            square[k] += weights[name] * float(own.square().sum())
    sizes = [sample.layouts[0].n_orbitals for sample in samples]
    stds = scale.h * np.sqrt(square) / sizes
    found = [Candidate(*each) for each in zip(rows, stds.tolist(), sizes, strict=True)]
    return found, weights


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
                self.m[name] += weights[name] / candidate.n_orbitals**2 * z.T @ z

    def run(self, n: int) -> list[Chosen]:
        """Return the n best."""
        total = left = self.expected_error()
        gains = np.array([self.gain(k) for k in range(len(self.candidates))])
        fresh = np.zeros(len(gains), dtype=int)  # round in which a gain was computed
        chosen = []
        for turn in range(n):
            while fresh[best := int(gains.argmax())] < turn:
                gains[best], fresh[best] = self.gain(best), turn
            left -= gains[best]
            std = HARTREE_TO_UHA * self.candidates[best].std
            chosen.append(Chosen(best, std, float(left / total)))
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
