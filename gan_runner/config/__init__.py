"""What a config may hold, how it is composed and checked, and what is built of it."""
