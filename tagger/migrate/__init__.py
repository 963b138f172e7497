"""Datasets out of other services: images, labels and figures."""
