"""From the folders of runs to what they show: continual metrics, statistics over seeds, one page."""
