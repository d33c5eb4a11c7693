"""Pytest fixtures for services that call other services."""

from __future__ import annotations
