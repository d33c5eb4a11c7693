"""Fixtures that every test folder shares: the real servers."""
