"""Settings from a module of defaults, overridden at run time, validated whole, with an origin for every value."""

from smartconfig.explain import Explanation, render_explanations
from smartconfig.loading import load
from smartconfig.marks import NeedsRestart, Secret
from smartconfig.settings import Settings, SourceStatus
from smartconfig.snapshot import Snapshot
from smartconfig.sources import FileSource, Override, Overrides, Source

__all__ = [
    "Explanation",
    "FileSource",
    "NeedsRestart",
    "Override",
    "Overrides",
    "Secret",
    "Settings",
    "Snapshot",
    "Source",
    "SourceStatus",
    "load",
    "render_explanations",
]
