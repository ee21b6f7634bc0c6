"""Random cases, each made from one integer, compared with a reference built in another way."""
