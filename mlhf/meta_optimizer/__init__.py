"""The learned optimizer: its rule, its LSTMs, its files."""
