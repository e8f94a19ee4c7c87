"""The types of the kinds served: which fields there are, of what type, and by which keys lists are merged."""
