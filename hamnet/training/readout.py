"""The readout, solved: ridge regression in place of gradient steps.

The last map, from features to standardised irreps, is linear, so its optimum for the present
features is a least-squares problem for each block type and irrep class,

    min_W  sum_rows || env (x W + b) - r ||^2 + lambda tau sum_k d_k || W_k - W0_k ||^2,

with ``r`` the standardised target, ``W0`` the present weights, ``d_k = q^(layer of k) |x_k|``,
``|x_k|`` the root mean square of feature k, and ``tau`` the mean diagonal of the normal matrix of
the features over sqrt(d): halfway between one ridge for all weights and features of unit size, and
as good as the better of both. With ``q > 1`` what the first layers know of an atom's neighbours
one by one is preferred to what later layers make of many at once.

Normal equations are accumulated over the data in float64, so memory does not depend on its size.
Those of the validation set give the error of every q and lambda exactly, without another pass; the
best of each class are kept, W0 itself included. Where molecules differ, a few for validation say
little about those that were never seen: then every training molecule is left out in turn as well.
That needs no further solution (`_Eigenproblem.left_out`), but one more pass.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg.lapack import dpstrf
from torch import Tensor

from hamnet.data.samples import Sample
from hamnet.irreps import BlockType, IrrepClass
from hamnet.models import HamiltonianModel
from hamnet.nn.readout import LinearReadout
from hamnet.training import parallel

LAMBDAS = tuple(10.0 ** (-k) for k in range(0, 15))
"""Candidates."""

LAYER_FACTORS = (1.0, 30.0)
"""Candidates of q; the first where there is no validation set."""

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
        values: those above rounding, ``(rank,)``.
        vectors: U, ``(n_in, rank)``.
        ridge: lambda tau.
    """

    equations: NormalEquations
    change: Tensor
    unit: Tensor
    values: Tensor
    vectors: Tensor
    ridge: Tensor

    def inverse(self, x: Tensor, strength: float) -> Tensor:
        """Return ``(X^T X + strength lambda tau d)^-1 x``, where rows say something."""
        rotated = self.vectors.T @ (self.unit[:, None] * x)
        solved = self.vectors @ (rotated / (self.values + strength * self.ridge)[:, None])
        return self.unit[:, None] * solved


class _Eigenproblem:
    """One class's normal equations in the basis in which every ridge is diagonal.

    Args:
        equations: of the training rows.
        layer: of each input.
        q: factor of the penalty from layer to layer.
    """

    def __init__(self, equations: NormalEquations, layer: Tensor, q: float) -> None:
        self.equations = equations
        gram = equations.gram
        size = gram.diagonal().clamp(min=1e-300).sqrt()
        self.unit = (size * q ** layer.to(size)).rsqrt()  # weights of unit penalty
        self.values, self.vectors = spectrum(self.unit[:, None] * gram * self.unit)
        self.moment = self.rotated(equations.moment.T).T
        self.tau = self.values.sum().clamp(min=1e-300) / len(gram)

    def rotated(self, x: Tensor) -> Tensor:
        """Return rows ``(n, n_in)`` in the basis, ``(n, rank)``."""
        return (x * self.unit) @ self.vectors

    def change(self, ridge: float) -> Tensor:
        """Return W - W0."""
        solved = self.vectors @ (self.moment / (self.values + ridge * self.tau)[:, None])
        change: Tensor = self.unit[:, None] * solved
        return change

    def solution(self, ridge: float | None) -> Solution:
        """Return the solution with a lambda; None: W0 itself."""
        change = self.change(LAMBDAS[0] if ridge is None else ridge)
        if ridge is None:
            change.zero_()
        tau = self.tau * (LAMBDAS[0] if ridge is None else ridge)
        return Solution(self.equations, change, self.unit, self.values, self.vectors, tau)

    def left_out(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return the squared error of training rows with every lambda, were they not trained on.

        With ``A = X^T X + P`` and the rows ``x`` of X, the solution without them errs by
        ``(1 - x A^-1 x^T)^-1 (r - x W)``: the group's version of the leave-one-out error (Allen's
        PRESS; Golub, Heath & Wahba, doi:10.1080/00401706.1979.10489751).

        Args:
            x: ``(n, n_in)``.
            residual: of W0, ``(n, n_irreps)``.
        """
        z = self.rotated(x)
        eye = torch.eye(min(z.shape), dtype=z.dtype, device=z.device)
        errors = []
        for ridge in LAMBDAS:
            values = self.values + ridge * self.tau
            if len(z) <= z.shape[1]:
                scaled = z / values
                error = residual - scaled @ self.moment
                error = torch.linalg.solve((1 + _JITTER) * eye - scaled @ z.T, error)
            else:
                others = torch.diag((1 + _JITTER) * values) - z.T @ z
                error = residual - z @ torch.linalg.solve(others, self.moment - z.T @ residual)
            errors.append(error.square().sum())
        return torch.stack(errors)


_JITTER = 1e-12
"""Rows that alone say something leave nothing without them, up to rounding."""


def spectrum(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues of a normal matrix that are above rounding, and their vectors.

    Of rare pairs of elements there are fewer rows than features. A Cholesky factorisation with
    pivots (LAPACK's dpstrf) finds out at a tenth of the cost of an eigenproblem, and its factor has
    the same vectors.

    Args:
        matrix: positive semi-definite up to rounding, float64, ``(n, n)``.

    Returns:
        Values ``(rank,)`` and orthonormal vectors ``(n, rank)``.
    """
    eps = torch.finfo(matrix.dtype).eps
    tolerance = eps * float(matrix.diagonal().max())
    packed, pivots, rank, _ = dpstrf(matrix.cpu().numpy(), lower=1, tol=tolerance)
    if 2 * rank < len(matrix):
        factor = np.zeros((len(matrix), rank))
        factor[pivots - 1] = np.tril(packed)[:, :rank]
        vectors, roots, _ = torch.linalg.svd(
            torch.from_numpy(factor).to(matrix.device), full_matrices=False
        )
        values = roots.square()
    else:
        values, vectors = torch.linalg.eigh(matrix)
    vectors[matrix.diagonal() == 0] = 0  # what never occurs has no part in them, not by rounding
    says = values >= eps * max(values.tolist(), default=0.0)
    return values[says], vectors[:, says]


@torch.no_grad()
def solve_readout(
    model: HamiltonianModel,
    train: Iterable[Sample],
    validation: Iterable[Sample],
    ridge: float = DEFAULT_LAMBDA,
    groups: Iterable[Sample] = (),
) -> dict[str, Solution]:
    """Replace the readout's weights by their optimum for the present features.

    Args:
        model: changed in place.
        train: batches with goals (`HamiltonianModel.with_goals`) that define the least-squares
            problem, this process's share of them.
        validation: batches that choose q and lambda, likewise; may be empty.
        ridge: lambda of the classes of which there is no other row.
        groups: the training samples again, in batches that are left out in turn, and whose errors
            count like those of validation in the choice of lambda; empty: none is.

    Returns:
        What was solved for each class that occurs in the training batches of all processes.
    """
    fitted, checked = accumulate(model, train), accumulate(model, validation)
    readout = model.network.readout
    problems, errors = {}, {}
    for t, c, name in readout.classes():
        if name in fitted:
            layer = readout.layers(t, c)
            problems[name], errors[name] = _choose(fitted.pop(name), checked.pop(name, None), layer)
    unchanged = {name: problems[name].equations.square.sum() for name in problems}
    seen = _leave_out(model, groups, problems)
    solved = {}
    for name, problem in problems.items():
        total = errors[name]
        if name in seen:
            # W0 is what a solution without the group is measured by, as on validation frames
            left = torch.cat([unchanged[name][None], seen[name]])
            total = left if total is None else total + left
        solved[name] = problem.solution(_best_lambda(total, ridge))
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


def _choose(
    fitted: NormalEquations, held_out: NormalEquations | None, layer: Tensor
) -> tuple[_Eigenproblem, Tensor | None]:
    """Return the problem with the best q on validation, and its squared errors there.

    Those are of W0 and, after it, of every lambda; None without validation rows.
    """
    layer = layer.to(fitted.gram.device)
    if held_out is None:
        return _Eigenproblem(fitted, layer, LAYER_FACTORS[0]), None
    found: list[tuple[_Eigenproblem, Tensor]] = []
    for q in LAYER_FACTORS if bool(layer.any()) else LAYER_FACTORS[:1]:
        problem = _Eigenproblem(fitted, layer, q)
        trials = [held_out.error(problem.change(ridge)).sum() for ridge in LAMBDAS]
        found.append((problem, torch.stack([held_out.square.sum(), *trials])))
    return min(found, key=lambda one: float(one[1].min()))


def _leave_out(
    model: HamiltonianModel, groups: Iterable[Sample], problems: Mapping[str, _Eigenproblem]
) -> dict[str, Tensor]:
    """Return the squared errors of every lambda on all groups, each left out in turn."""
    errors = {
        name: problem.values.new_zeros(1 + len(LAMBDAS)) for name, problem in problems.items()
    }
    for batch in groups:
        for name, x, residual in problem_rows(model, batch):
            if name in errors:
                errors[name][0] += 1
                errors[name][1:] += problems[name].left_out(x, residual)
    totals = {name: parallel.add(x) for name, x in errors.items()}
    return {name: x[1:] for name, x in totals.items() if x[0] > 0}


def _best_lambda(errors: Tensor | None, default: float) -> float | None:
    """Return the lambda with the smallest error; None for W0 itself, whose error is the first."""
    if errors is None:
        return default
    best = int(errors.argmin())
    return None if best == 0 else LAMBDAS[best - 1]
