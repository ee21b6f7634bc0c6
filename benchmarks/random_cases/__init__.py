"""Random cases, each made from one integer, compared with an independent reference."""
