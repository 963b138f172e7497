"""Metrics, calibration, and how far engines agree with the reference."""
