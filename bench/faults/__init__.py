"""Random faults under load, and a checker that counts what a stranger sees of them. METHODOLOGY.md says how."""
