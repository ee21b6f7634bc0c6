"""Error at equal seconds: least-squares methods and their rivals on the equations."""
