"""Small networks, and the bundled weights with their cards."""
