"""Readers for label formats (one per format), and the matching of labels to files.

A new format is one file with a `FORMAT` and a line in `formats.py`.
"""
