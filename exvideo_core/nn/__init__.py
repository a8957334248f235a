"""Layers, attention and other building blocks of any network."""
