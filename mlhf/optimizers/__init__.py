"""Optimizers whose rules people wrote, and what all optimizers' steps share."""
