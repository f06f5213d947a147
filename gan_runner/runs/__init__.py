"""One run: built, trained, recorded."""
