"""Everything that touches disk: profiles, typed tables, runs, sources, execution, reports."""
