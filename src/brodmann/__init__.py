"""Brodmann."""
