"""ArviZ: export, and the differences between its versions."""
