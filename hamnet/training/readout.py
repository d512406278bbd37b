"""The readout, solved: ridge regression in place of gradient steps.

The last map, from features to standardised irreps, is linear, so its optimum for the present
features is a least-squares problem for each block type and irrep class,

    min_W  sum_rows || env (x W + b) - r ||^2 + lambda tau sum_k d_k || W_k - W0_k ||^2,

with ``r`` the standardised target, ``W0`` the present weights, ``d_k`` the root mean square of
feature k and ``tau`` the mean diagonal of the normal matrix of the features over sqrt(d): halfway
between one ridge for all weights (d = 1) and features of unit size (d^2), and as good as the better
of both. Normal equations are accumulated over the data in float64, so memory does not depend on its
size. Those of the validation set give the error of every lambda exactly, without another pass; the
best lambda of each class is kept, W0 itself included.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hamnet.data.samples import Sample
from hamnet.irreps import BlockType, IrrepClass
from hamnet.models import HamiltonianModel
from hamnet.nn.readout import LinearReadout
from hamnet.training import parallel

LAMBDAS = tuple(10.0 ** (-k) for k in range(0, 15))
"""Candidates."""

DEFAULT_LAMBDA = 1e-6
"""Where there is no validation set."""


@dataclass
class NormalEquations:
    """Sums over rows of one irrep class: ``X^T X``, ``X^T (r - X W0)``, ``|r - X W0|^2``."""

    gram: Tensor
    moment: Tensor
    square: Tensor
    n_rows: int = 0

    @staticmethod
    def empty(weight: Tensor) -> "NormalEquations":
        """Return the sums over no rows, for weights ``(n_in, n_irreps)``."""
        n, m = weight.shape
        return NormalEquations(weight.new_zeros(n, n), weight.new_zeros(n, m), weight.new_zeros(m))

    def add_up(self) -> None:
        """Add the rows of the other processes."""
        for x in (self.gram, self.moment, self.square):
            parallel.add(x)
        self.n_rows = int(parallel.add(torch.tensor(self.n_rows)))

    def add(self, x: Tensor, residual: Tensor) -> None:
        """Add rows ``x`` ``(n, n_in)`` with residuals ``(n, n_irreps)``."""
        self.gram += x.T @ x
        self.moment += x.T @ residual
        self.square += residual.square().sum(dim=0)
        self.n_rows += len(x)

    def error(self, change: Tensor) -> Tensor:
        """Return the squared error of every irrep after changing W0 by ``change``."""
        quadratic = (change * (self.gram @ change)).sum(dim=0)
        cross = (change * self.moment).sum(dim=0)
        return self.square - 2 * cross + quadratic


@dataclass(frozen=True, eq=False)
class Solution:
    """The solved weights of one class, and the eigenproblem that gave them.

    With ``unit = d^(-1/2)``, ``unit X^T X unit = U diag(values) U^T``.

    Attributes:
        equations: of the training rows.
        change: W - W0, ``(n_in, n_irreps)``.
        unit: ``(n_in,)``.
        values: not negative, ``(n_in,)``.
        vectors: U, ``(n_in, n_in)``.
        ridge: lambda tau.
    """

    equations: NormalEquations
    change: Tensor
    unit: Tensor
    values: Tensor
    vectors: Tensor
    ridge: Tensor

    def inverse(self, x: Tensor, strength: float) -> Tensor:
        """Return ``(X^T X + strength lambda tau d)^-1 x``."""
        rotated = self.vectors.T @ (self.unit[:, None] * x)
        solved = self.vectors @ (rotated / (self.values + strength * self.ridge)[:, None])
        return self.unit[:, None] * solved


@torch.no_grad()
def solve_readout(
    model: HamiltonianModel,
    train: Iterable[Sample],
    validation: Iterable[Sample],
    ridge: float = DEFAULT_LAMBDA,
) -> dict[str, Solution]:
    """Replace the readout's weights by their optimum for the present features.

    Args:
        model: changed in place.
        train: batches with goals (`HamiltonianModel.with_goals`) that define the least-squares
            problem, this process's share of them.
        validation: batches that choose lambda, likewise; may be empty.
        ridge: lambda of the classes of which there is no validation row.

    Returns:
        What was solved for each class that occurs in the training batches of all processes.
    """
    fitted, checked = accumulate(model, train), accumulate(model, validation)
    solved = {}
    for name in list(fitted):
        solved[name] = _solve(fitted.pop(name), checked.pop(name, None), ridge)
    change_weights(model, {name: solution.change for name, solution in solved.items()})
    return solved


@torch.no_grad()
def change_weights(model: HamiltonianModel, changes: Mapping[str, Tensor]) -> None:
    """Add to the readout's weights and, last row, to its biases, in all processes alike."""
    readout = model.network.readout
    for _, c, name in readout.classes():
        if name in changes:
            _apply(readout, name, c, changes[name])
    parallel.equalise(readout)


def accumulate(model: HamiltonianModel, batches: Iterable[Sample]) -> dict[str, NormalEquations]:
    """Return the normal equations of every class that occurs in the data of all processes."""
    readout = model.network.readout
    found = {
        name: NormalEquations.empty(readout_weights(readout, name))
        for _, _, name in readout.classes()
    }
    for batch in batches:
        for name, x, residual in problem_rows(model, batch):
            found[name].add(x, residual)
    for equations in found.values():
        equations.add_up()
    return {name: equations for name, equations in found.items() if equations.n_rows}


@torch.no_grad()
def problem_rows(model: HamiltonianModel, sample: Sample) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the rows of each class's least-squares problem: name, inputs and residuals of W0.

    Args:
        model: its readout holds W0.
        sample: with goals (`HamiltonianModel.with_goals`).
    """
    for name, x, goal in design_rows(model, sample)[0]:
        yield name, x, goal - x @ readout_weights(model.network.readout, name)


def design_rows(
    model: HamiltonianModel, sample: Sample, *, traces: bool = False
) -> tuple[Iterator[tuple[str, Tensor, Tensor]], dict[BlockType, Tensor]]:
    """Return the rows of each class's problem, differentiable, and the predicted label invariants.

    Args:
        model: its readout is not looked at.
        sample: with goals (`HamiltonianModel.with_goals`).
        traces: the invariants are wanted.

    Returns:
        Name, inputs ``(n, n_in)`` and standardised targets ``(n, n_irreps)``, float64; invariants
        as in `hamnet.models.so2_network.NetworkOutput`.
    """
    batch = sample.to(model.device)
    graph = batch.graph
    frames = model.frames(graph).to(model.dtype)
    features, predicted = model.network.features(graph, frames, batch.density, traces=traces)
    envelope = model.network.envelope(frames.distance).double()

    def rows() -> Iterator[tuple[str, Tensor, Tensor]]:
        for t, c, name, inputs in model.network.readout.design(features, graph, envelope):
            goal = batch.goals[t][:, c.columns].reshape(-1, c.n_irreps)
            yield name, inputs.flatten(0, 1), goal

    return rows(), predicted


def readout_weights(readout: LinearReadout, name: str) -> Tensor:
    """Return the weights of a class and, last row, its biases; float64."""
    weight = readout.weights[name].double()
    return (
        torch.cat([weight, readout.biases[name].double()[None]])
        if (name in readout.biases)
        else weight
    )


def _apply(readout: LinearReadout, name: str, c: IrrepClass, change: Tensor) -> None:
    if c.is_invariant:
        readout.biases[name] += change[-1].to(readout.biases[name].dtype)
        change = change[:-1]
    readout.weights[name] += change.to(readout.weights[name].dtype)


def _solve(fitted: NormalEquations, held_out: NormalEquations | None, default: float) -> Solution:
    """Return the weights whose squared error on validation is the smallest."""
    # Weights of unit penalty. Below rounding, a direction of the normal matrix says nothing.
    unit = fitted.gram.diagonal().clamp(min=1e-300).pow(-0.25)
    values, vectors = torch.linalg.eigh(unit[:, None] * fitted.gram * unit)
    rotated = vectors.T @ (unit[:, None] * fitted.moment)
    rotated[values < torch.finfo(values.dtype).eps * values[-1]] = 0
    values = values.clamp(min=0)
    tau = values.mean().clamp(min=1e-300)

    def solution(ridge: float) -> Solution:
        solved = vectors @ (rotated / (values + ridge * tau)[:, None])
        return Solution(fitted, unit[:, None] * solved, unit, values, vectors, ridge * tau)

    if held_out is None:
        return solution(default)
    best = solution(LAMBDAS[0])
    best.change.zero_()
    smallest = float(held_out.square.sum())
    for ridge in LAMBDAS:
        trial = solution(ridge)
        error = float(held_out.error(trial.change).sum())
        if error < smallest:
            best, smallest = trial, error
    return best
