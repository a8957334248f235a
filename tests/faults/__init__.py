"""Faults that are put in on purpose, and what then happens; `run.py` writes the table of docs/reliability.md."""
