"""The review page: look at tags, confirm and correct them; decisions are labels to train on."""
