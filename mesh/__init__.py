"""The plumbing of Village Mesh, once for all domains. It knows no domain."""
