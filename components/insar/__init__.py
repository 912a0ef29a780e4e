"""Physics of InSAR: arrays in, arrays out, no I/O."""
