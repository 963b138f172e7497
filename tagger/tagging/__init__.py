"""Tag a source into a results table: plan, run, commit part files, query."""
