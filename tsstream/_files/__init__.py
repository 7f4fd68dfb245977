"""Files and archives of them: read and made in threads, given as responses."""
