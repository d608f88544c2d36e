"""Calls the services of Village Mesh and follows what they announce: a client with deadlines, safe repetition
and refusals that say why, and a subscriber that acts on each event once."""

import pathlib

from village_mesh.calling import Client, Told, pages, told
from village_mesh.following import Event, Gap, Inbox, follow
from village_mesh.refusal import Refusal

DESCRIPTORS = pathlib.Path(__file__).with_name("village.binpb")
"""The contract as a descriptor set, for reflection, gateways and other languages."""

__all__ = ["DESCRIPTORS", "Client", "Event", "Gap", "Inbox", "Refusal", "Told", "follow", "pages", "told"]
