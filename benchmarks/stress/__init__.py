"""What becomes of a pipeline and of its numbers when DynamoDB has a bad day, for this library and
for what people use today, over the same faults. ``python -m benchmarks.stress``."""
