"""Metrics, calibration, and agreement of engines with the reference."""
