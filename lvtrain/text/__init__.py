"""Files of text, of any format, as sentences."""
