"""Layers, one algorithm a file."""
