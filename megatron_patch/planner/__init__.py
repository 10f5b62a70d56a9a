"""What a run would take, before anybody pays for it: step time, memory, the fastest layout. No GPU, no torch."""
