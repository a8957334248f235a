"""Post-tuning: extending models to longer clips. The command is `exvideo train`."""
