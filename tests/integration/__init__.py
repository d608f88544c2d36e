"""Real parts together: databases, broker, Envoy, processes."""
