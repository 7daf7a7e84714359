"""How likely a model finds a text, token by token, and how far that is from what another model finds."""
