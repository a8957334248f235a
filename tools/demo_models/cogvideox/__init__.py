"""The embedded CogVideoX demo model."""
