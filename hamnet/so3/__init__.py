"""Rotations: the edge frame, the layout of SO(2) features, and the coupling of shells."""
