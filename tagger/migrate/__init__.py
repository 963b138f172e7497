"""Datasets from other services: images, labels and figures."""
