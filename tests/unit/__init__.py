"""Rules and functions by themselves, without I/O."""
