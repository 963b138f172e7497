"""Inference: read, decode and score files."""
