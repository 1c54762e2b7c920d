"""`/console`: pages for people, made by the server: they need no scripts, and nothing from elsewhere."""
