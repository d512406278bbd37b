"""Units and constants; every other module takes them from here.

Inside hamnet energies are Hartree and lengths Angstrom; the name of every number that leaves the
library says its unit (``homo_ev``, ``h_mae_uha``).
"""

HARTREE_TO_EV = 27.211386245988
"""CODATA 2018."""

HARTREE_TO_MEV = 1e3 * HARTREE_TO_EV
HARTREE_TO_UHA = 1e6

BOHR_TO_ANGSTROM = 0.52917721092
"""CODATA 2010, as PySCF uses it: labels and overlaps must see the same geometry."""

AU_TO_DEBYE = 2.5417464157449032
"""Dipole of one electron charge times one Bohr, as PySCF uses it."""

MIN_DISTANCE_FRACTION = 0.6
"""Two atoms closer than this fraction of the sum of their covalent radii are refused."""

OVERLAP_EIGENVALUE_CUT = 1e-6
"""Overlap directions below this eigenvalue leave the eigenproblem, as in PySCF 2.14."""
