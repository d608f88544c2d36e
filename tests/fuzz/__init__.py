"""Everything that a caller may send, and what nobody would."""
