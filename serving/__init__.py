"""Model services read here."""
