"""Runs in the browser: sections under their labels, the features as a plane, and places that look alike, linked."""
