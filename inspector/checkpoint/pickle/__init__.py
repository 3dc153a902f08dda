"""Metadata pickles -> inert stand-ins -> columns; nothing that they name is run."""
