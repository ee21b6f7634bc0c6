"""The learned optimizer: its rule, its networks, its files."""
