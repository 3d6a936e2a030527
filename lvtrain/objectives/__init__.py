"""What the players of a game minimise."""
