"""Contract suites that a new technique or exporter inherits, and the small networks they run on."""
