"""What a device allows and what it costs there: bit widths, channel multiples, memories, time."""
