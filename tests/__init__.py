"""Tests: unit (no I/O), contract (walks descriptors), integration (real parts), faults."""
