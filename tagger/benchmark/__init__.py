"""Benchmarks: models of rising cost on the same images, compared; and throughput of this machine."""
