"""Sources, manifests, labels, splits: from files to a dataset."""
