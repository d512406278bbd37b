"""Order of the components of a feature in the edge frame.

In the laboratory frame a feature has rows ``(l, m)`` in the order ``l*l + l + m``. In the edge
frame rows are sorted by ``|m|``: for m = 0 the rows l = 0..L; for each m > 0 first the *even* rows
l = m..L, then the *odd* ones. Even and odd refer to the mirror planes that hold the edge: for
natural parity, (-1)^l, the even row is ``+m`` (a cosine) and the odd one ``-m``; for pseudo
features, (-1)^(l+1), the even row is ``-m`` and the odd one minus ``+m``. With that choice one
matrix acts alike on the even and the odd rows, on natural and on pseudo channels, and exactly
O(3)-equivariant convolutions are plain matrix products (see `hamnet.nn.so2`).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class SO2Layout:
    """Rows of edge-frame features up to degree ``l_max``."""

    l_max: int

    @property
    def n_rows(self) -> int:
        """Number of components, (L+1)^2."""
        return (self.l_max + 1) ** 2

    @property
    def degrees(self) -> tuple[int, ...]:
        """Number of degrees l that reach each ``|m|``: L + 1 - m for m = 0..L."""
        return tuple(self.l_max + 1 - m for m in range(self.l_max + 1))

    @property
    def row_splits(self) -> list[int]:
        """Number of rows of each ``|m|``."""
        return [n if m == 0 else 2 * n for m, n in enumerate(self.degrees)]

    @cached_property
    def natural(self) -> tuple[list[int], Tensor]:
        """Laboratory row and sign of every edge-frame row, natural parity."""
        rows = [l * l + l for l in range(self.l_max + 1)]
        for m in range(1, self.l_max + 1):
            rows += [l * l + l + m for l in range(m, self.l_max + 1)]
            rows += [l * l + l - m for l in range(m, self.l_max + 1)]
        return rows, torch.ones(self.n_rows, dtype=torch.float64)

    @cached_property
    def pseudo(self) -> tuple[list[int], Tensor]:
        """Laboratory row and sign of every edge-frame row, pseudo parity."""
        rows = [l * l + l for l in range(self.l_max + 1)]
        signs = [1.0] * len(rows)
        for m in range(1, self.l_max + 1):
            n = self.l_max + 1 - m
            rows += [l * l + l - m for l in range(m, self.l_max + 1)]
            rows += [l * l + l + m for l in range(m, self.l_max + 1)]
            signs += [1.0] * n + [-1.0] * n
        return rows, torch.tensor(signs, dtype=torch.float64)

    @cached_property
    def degree_of_row(self) -> Tensor:
        """Degree l of every edge-frame row, ``((L+1)^2,)``."""
        return torch.tensor([math.isqrt(row) for row in self.natural[0]])

    @cached_property
    def reflection(self) -> Tensor:
        """Signs (-1)^(l+m) of the rows when the polar axis is reversed by a mirror across it.

        Those of pseudo features are the opposite.
        """
        order = [m for m, n in enumerate(self.row_splits) for _ in range(n)]
        return (-1.0) ** (self.degree_of_row + torch.tensor(order)).double()

    @cached_property
    def half_turn(self) -> Tensor:
        """Diagonal of the half turn about x in the laboratory rows, ``((L+1)^2,)``.

        It takes -z to z, and a real harmonic to itself times (-1)^(l+m) (m >= 0) or (-1)^(l+m+1).
        """
        signs = [
            (-1.0) ** (l + m + (m < 0)) for l in range(self.l_max + 1) for m in range(-l, l + 1)
        ]
        return torch.tensor(signs, dtype=torch.float64)
