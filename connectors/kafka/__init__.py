"""Apache Kafka: events, outputs, commands, and the topics they travel in."""
