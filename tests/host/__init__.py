"""A real ComfyUI server for tests and the demo: environment, server, client, graph conversion, web page.

Standard library only, except `browser`: `run.py` uses this package before anything is installed.
"""
