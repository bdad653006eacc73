"""Reads the folders of runs and shows what is in them: continual metrics, statistics over seeds, one page."""
