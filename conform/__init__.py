"""Whether an endpoint that claims a domain keeps the rules of the mesh. It is asked over the wire, and
described by its own reflection, so that it may be anybody's: nothing here knows the plumbing or a service."""
