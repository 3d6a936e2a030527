"""The embedded grammar: sentences, their translations, and what is known of them exactly."""
