"""Games: whose turn it is, and what that player sees."""
