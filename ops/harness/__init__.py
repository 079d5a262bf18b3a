"""The exactness harness: a stream, a run that is never stopped, one that is killed, and how they compare."""
