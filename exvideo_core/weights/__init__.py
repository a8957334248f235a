"""Weight files of any model: read, recognise, assign, write."""
