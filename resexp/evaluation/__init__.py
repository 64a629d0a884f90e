"""Errors of a net on images: single view, several views, and ensembles of runs."""
