"""Sources, manifests, labels, splits: everything between files and a dataset."""
