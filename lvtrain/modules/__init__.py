"""The pieces systems are composed from."""
