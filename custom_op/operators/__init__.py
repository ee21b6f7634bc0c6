"""Curvature matrices as linear operators: Gauss-Newton, Hessian, Fisher, Jacobian."""
