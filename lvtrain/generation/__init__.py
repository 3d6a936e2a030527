"""Codes to sentences, and walks in latent space."""
