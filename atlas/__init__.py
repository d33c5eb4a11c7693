"""The map of a realm: which services exist, where each instance runs, what overrides each has."""

from atlas.directory import Directory
from atlas.model import Author, Change, Edit, Instance, Lease, Override, Ruling, Service
from atlas.opening import open
from atlas.world import Delta, Place, Position, World

__all__ = [
    "Author",
    "Change",
    "Delta",
    "Directory",
    "Edit",
    "Instance",
    "Lease",
    "Override",
    "Place",
    "Position",
    "Ruling",
    "Service",
    "World",
    "open",
]
