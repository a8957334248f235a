"""Memory, weight streaming, guidance branches, resume and distributed runs of any model."""
