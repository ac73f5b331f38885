"""Recovery on real local processes: how soon frames are answered again, and whether any is lost, doubled or wrong."""
