"""Using a model: files of structures in, tables and orbitals out; an ASE calculator."""
