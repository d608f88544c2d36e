"""How a node is put on machines."""
