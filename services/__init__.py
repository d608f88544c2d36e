"""The six services, one per ministry domain. They know the plumbing and never each other."""
