"""Bridges to other programs and file formats, one module each."""
