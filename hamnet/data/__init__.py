"""Datasets of Hamiltonians: the HDF5 store, splits and batches."""
