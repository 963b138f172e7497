"""The prediction server: REST calls of Azure Custom Vision's clients and plain ones, over models that stay loaded."""
