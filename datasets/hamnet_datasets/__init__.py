"""Makes datasets: labels by PySCF, geometries by recipes, imports of other people's files."""
