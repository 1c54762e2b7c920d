"""Kafka to features: messages, decode, views, embeddings, dead letters, checkpoint, worker, backfill."""
