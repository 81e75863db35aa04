"""Step signals: where a score per step comes from (paper B, sections 3 and 4)."""
