"""Journeys through habitat, a file for each row of the reference (H-1 to H-24), on both kinds of database."""
