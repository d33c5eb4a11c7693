"""`atlas keys`: the keys with which secrets are encrypted."""

from __future__ import annotations

import click

from atlas.server.terminal import AtlasGroup, Session, reads, writes
