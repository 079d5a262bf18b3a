"""A real Apache Kafka broker for tests and for trying out: `python -m ops.kafka start --folder DIR`.

One process (KRaft: broker and controller in one) on the loopback address, from Kafka's own jars of Maven
Central. Needs Java 17, Maven and, for `--secure`, openssl; of Python only the standard library.
"""
