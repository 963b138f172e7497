"""Suggestions: images to label next, and labels to look at again."""
