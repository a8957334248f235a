"""Measures of any video, and plots of them."""
