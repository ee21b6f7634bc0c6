"""The optimizers whose rules people wrote, and what every optimizer's step shares."""
