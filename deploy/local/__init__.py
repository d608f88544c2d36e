"""A whole node on one machine: broker, services and Envoy as one command."""
