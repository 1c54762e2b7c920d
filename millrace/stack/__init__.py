"""The local stack: real PostgreSQL, Kafka, Kafka Connect and Redis on loopback, without containers."""
