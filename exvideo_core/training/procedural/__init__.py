"""Procedurally drawn clips to train on without data."""
