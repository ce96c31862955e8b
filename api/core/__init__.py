"""What every room rests on: errors, files, seeds, and the names of parts."""
