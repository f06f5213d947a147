"""Reports of what is in run directories: tables, plots, one page."""
