"""The parts that recipes are made of: base models, examples, batches, loss, checkpoints, export."""
