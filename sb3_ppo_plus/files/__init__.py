"""Files that are read without running what is in them."""
