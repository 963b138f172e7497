"""Labels as people have them: one reader per format, one place that matches them to files.

A new format is one file with a `FORMAT` and a line in `formats.py`.
"""
