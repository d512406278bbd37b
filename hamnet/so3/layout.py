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


def edge_row(m: int, *, odd: bool, pseudo: bool) -> tuple[int, float]:
    """Return the component (m or -m) and the sign that stand in the even or odd row of ``|m|``."""
    if not pseudo or m == 0:
        return (-m if odd else m), 1.0
    return (m, -1.0) if odd else (-m, 1.0)


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

    def rows(self, *, pseudo: bool) -> tuple[list[int], Tensor]:
        """Return the laboratory row and the sign of every edge-frame row of one parity."""
        rows, signs = [], []
        for m in range(self.l_max + 1):
            for odd in (False, True)[: 1 if m == 0 else 2]:
                signed, sign = edge_row(m, odd=odd, pseudo=pseudo)
                rows += [l * l + l + signed for l in range(m, self.l_max + 1)]
                signs += [sign] * (self.l_max + 1 - m)
        return rows, torch.tensor(signs, dtype=torch.float64)

    @cached_property
    def degree_of_row(self) -> Tensor:
        """Degree l of every edge-frame row, ``((L+1)^2,)``."""
        return torch.tensor([math.isqrt(row) for row in self.rows(pseudo=False)[0]])

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
