"""Benchmarks: compare models of increasing cost on the same images, and measure the throughput of this machine."""
