"""Functions of one tensor, entry by entry, and their gradients."""

from __future__ import annotations

from benchmarks.random_cases.networks.templates.base import (
    GRID,
    POSITIVE,
    UNIT,
    Value,
    each,
    op,
)

each(
    [
        ("Atan", "tf.atan({x})"),
        ("Asinh", "tf.asinh({x})"),
        ("Cos", "tf.cos({x})"),
        ("Cosh", "tf.cosh(0.5 * {x})"),
        ("Erf", "tf.math.erf({x})"),
        ("Erfc", "tf.math.erfc({x})"),
        ("Exp", "tf.exp(0.5 * {x})"),
        ("Expm1", "tf.math.expm1(0.5 * {x})"),
        ("Neg", "-{x}"),
        ("Sigmoid", "tf.sigmoid({x})"),
        ("Sin", "tf.sin({x})"),
        ("Sinh", "tf.sinh(0.5 * {x})"),
        ("Softplus", "tf.nn.softplus({x})"),
        ("Square", "tf.square({x})"),
        ("Tanh", "tf.tanh({x})"),
        ("Identity", "tf.identity({x})"),
        ("Sigmoid Mul", "tf.nn.silu({x})"),
        ("Mul", "tf.nn.gelu({x})"),
        ("CheckNumerics", "tf.debugging.check_numerics({x}, 'x')"),
        ("OnesLike", "{x} * raw.OnesLike(x={x})"),
        ("ZerosLike", "{x} + raw.ZerosLike(x={x})"),
        ("PlaceholderWithDefault", "raw.PlaceholderWithDefault(input={x}, shape={x}.shape)"),
        ("EnsureShape", "raw.EnsureShape(input={x}, shape={x}.shape)"),
        ("Cast", "f64(f32({x}))"),
        ("StopGradient", "{x} * stop(tf.tanh({x}), '{key}')"),
    ]
)
each(
    [
        ("Acos", "tf.acos({x})"),
        ("Asin", "tf.asin({x})"),
        ("Atanh", "tf.atanh({x})"),
        ("Erfinv", "tf.math.erfinv({x})"),
        ("Log1p", "tf.math.log1p({x})"),
        ("Tan", "tf.tan({x})"),
    ],
    x=Value(domain=UNIT),
)
each(
    [
        ("Acosh", "tf.acosh(1.0 + {x})"),
        ("Digamma", "tf.math.digamma(0.5 + {x})"),
        ("Inv", "raw.Inv(x=0.5 + {x})"),
        ("Lgamma", "tf.math.lgamma(0.5 + {x})"),
        ("Log", "tf.math.log({x})"),
        ("Ndtri", "tf.math.ndtri({x} / (1.0 + {x}))"),
        ("Reciprocal", "tf.math.reciprocal(0.5 + {x})"),
        ("Rsqrt", "tf.math.rsqrt(0.3 + {x})"),
        ("Sqrt", "tf.sqrt({x})"),
    ],
    x=Value(domain=POSITIVE),
)
each(
    [
        ("Abs", "tf.abs({x})"),
        ("Elu", "tf.nn.elu({x})"),
        ("LeakyRelu", "tf.nn.leaky_relu({x}, 0.3)"),
        ("Relu", "tf.nn.relu({x}) + 0.1 * {x}"),
        ("Relu6", "tf.nn.relu6(3.0 * {x}) + 0.1 * {x}"),
        ("Selu", "tf.nn.selu({x})"),
        ("Softsign", "tf.nn.softsign({x})"),
        ("Ceil", "{x} * tf.math.ceil({x})"),
        ("Floor", "{x} * tf.floor({x})"),
        ("Rint", "{x} * tf.math.rint({x})"),
        ("Round", "{x} * tf.round({x})"),
        ("Sign", "{x} * tf.sign({x})"),
        (
            "StatelessRandomPoisson",
            "{x} * raw.StatelessRandomPoisson(shape={x}.shape, seed=[1, 2], "
            "lam=1.5 + tf.tanh({x}), dtype=tf.float64)",
        ),
    ],
    x=Value(domain=GRID),
)
# Gradients as a network's own parts. Raw, so that both arguments may move on their own.
LIKE = Value("like")
each(
    [
        ("SigmoidGrad", "raw.SigmoidGrad(y=tf.sigmoid({x}), dy={y})"),
        ("TanhGrad", "raw.TanhGrad(y={x}, dy={y})"),
        ("SoftplusGrad", "raw.SoftplusGrad(gradients={y}, features={x})"),
        ("SqrtGrad", "raw.SqrtGrad(y=tf.sqrt(1.0 + tf.square({x})), dy={y})"),
        ("RsqrtGrad", "raw.RsqrtGrad(y=tf.sigmoid({x}), dy={y})"),
        ("InvGrad", "raw.InvGrad(y={x}, dy={y})"),
        ("ReciprocalGrad", "raw.ReciprocalGrad(y={x}, dy={y})"),
    ],
    y=LIKE,
)
each(
    [
        ("ReluGrad", "raw.ReluGrad(gradients={y}, features={x}) + 0.1 * {x}"),
        ("Relu6Grad", "raw.Relu6Grad(gradients={y}, features={x}) + 0.1 * {x}"),
        ("LeakyReluGrad", "raw.LeakyReluGrad(gradients={y}, features={x}, alpha=0.2) + 0.1 * {x}"),
        ("EluGrad", "raw.EluGrad(gradients={y}, outputs=tf.nn.elu({x}))"),
        ("SeluGrad", "raw.SeluGrad(gradients={y}, outputs=tf.nn.selu({x}))"),
        ("SoftsignGrad", "raw.SoftsignGrad(gradients={y}, features={x})"),
    ],
    x=Value(domain=GRID),
    y=LIKE,
)
# Without a rule: by TensorFlow's gradient, differentiated once more.
each(
    [
        ("BesselI0e", "tf.math.bessel_i0e(1.0 + {x})"),
        ("Igamma", "tf.math.igamma(const(3) + 3.0, {x})"),
        ("Polygamma", "tf.math.polygamma(f64(1.0), 1.0 + {x})"),
    ],
    x=Value(domain=POSITIVE),
    weight=0.5,
)
op("ComplexAbs", "tf.abs(tf.complex(1.0 + tf.square({x}), {y}))", y=LIKE, weight=0.5)
