"""Which plans may be tried: knobs, decoding their values into a plan, projecting it into a budget."""
