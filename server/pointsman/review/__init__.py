"""Labelled traffic and a snapshot to judgements on a catalog, for those who write it. Serves no request."""
