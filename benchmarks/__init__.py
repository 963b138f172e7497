"""The scripts behind every number in README and docs/: run them as `python -m benchmarks.<name>`."""
