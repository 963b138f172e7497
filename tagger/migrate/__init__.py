"""Copy datasets from other services: images, labels and metrics."""
