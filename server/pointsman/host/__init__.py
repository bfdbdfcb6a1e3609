"""The rooms composed into one process: load, serve, watch, drain."""
