"""One run: built, trained, recorded, evaluated, sampled from, exported."""
