"""How the embedded demo models were made."""
