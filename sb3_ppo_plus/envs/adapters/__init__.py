"""Other libraries' vectorized environments on the tensor face, one file per library, imported where they are used."""
