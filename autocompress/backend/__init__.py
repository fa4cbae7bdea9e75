"""The only home of torch beside export and tasks: tracing, compressing, recovering a network."""
