"""A domain of tests: what the plumbing promises to every domain, without one."""
