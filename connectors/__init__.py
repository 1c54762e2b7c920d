"""PostgreSQL to Kafka: Debezium configs, Kafka Connect's REST interface, the source database's health."""
