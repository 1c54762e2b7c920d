"""Where features live: online (Redis), lake (Delta), vectors (pgvector), and their Feast plug-ins."""
