"""What is linear: reshaping, summing, padding, joining, Fourier transforms."""

from __future__ import annotations

from benchmarks.random_cases.networks.templates.base import Axis, Value, each, op

TWO = [2, 3]
OTHER = Value([2, 3])
each(
    [
        ("Reshape", "tf.reshape({x}, [3, 2])"),
        ("ExpandDims", "tf.expand_dims({x}, 1)"),
        ("Squeeze", "tf.squeeze(tf.expand_dims({x}, 0), 0)"),
        ("Transpose", "tf.transpose({x})"),
        ("BroadcastTo", "tf.broadcast_to({x}, [2, 2, 3])"),
        ("Tile", "tf.tile({x}, [2, 2])"),
        ("ReverseV2", "tf.reverse({x}, [1])"),
        ("Roll", "tf.roll({x}, [1, 2], [0, 1])"),
        ("Pad", "tf.pad({x}, [[1, 0], [0, 2]])"),
        ("MirrorPad", "tf.pad({x}, [[1, 1], [0, 2]], 'REFLECT')"),
        ("MirrorPad", "tf.pad({x}, [[1, 2], [2, 0]], 'SYMMETRIC')"),
        ("Unpack Pack", "tf.stack([a * a for a in tf.unstack({x}, axis=1)], 0)"),
        ("Split", "tf.multiply(*tf.split({x}, 2, 0))"),
        ("SplitV", "tf.concat([a * tf.sin(a) for a in tf.split({x}, [1, 2], 1)], 1)"),
        ("ReverseSequence", "tf.reverse_sequence({x}, [2, 3], seq_axis=1, batch_axis=0)"),
        ("Diag", "tf.linalg.tensor_diag({x}[0])"),
        ("MatrixDiag", "raw.MatrixDiag(diagonal={x})"),
        ("MatrixDiagPart", "raw.MatrixDiagPart(input={x})"),
        ("MatrixDiagV3", "tf.linalg.diag({x})"),
        ("MatrixDiagPartV3", "tf.linalg.diag_part({x})"),
        ("MatrixBandPart", "tf.linalg.band_part({x}, 0, 1)"),
        ("BiasAddGrad", "{x} * raw.BiasAddGrad(out_backprop={x})"),
        ("DiagPart", "tf.linalg.tensor_diag_part({x}[:, :2])"),
        ("Sum", "tf.linalg.trace({x}) * {x}"),
    ],
    x=TWO,
)
each(
    [
        ("Pack", "tf.stack([{x}, {y}, {x}], 1)"),
        ("Concat", "raw.Concat(concat_dim=1, values=[{x}, {y}])"),
        ("ConcatV2", "tf.concat([{x}, {y}, {x}], 0)"),
        ("BiasAdd", "tf.nn.bias_add({x}, {y}[0])"),
        ("BiasAddV1", "raw.BiasAddV1(value={x}, bias={y}[0])"),
        ("PadV2", "raw.PadV2(input={x}, paddings=[[1, 0], [0, 1]], constant_values={y}[0, 0])"),
        ("Fill", "{x} * tf.fill([2, 3], {y}[1, 1])"),
        ("MatrixSetDiag", "raw.MatrixSetDiag(input={x}, diagonal={y}[0, :2])"),
        ("MatrixSetDiagV2", "raw.MatrixSetDiagV2(input={x}, diagonal={y}[1, 1:], k=1)"),
        ("MatrixSetDiagV3", "tf.linalg.set_diag({x}, {y}[1, :2])"),
        (
            "MatrixDiagV2",
            "raw.MatrixDiagV2(diagonal={x}, k=0, num_rows=3, num_cols=4, padding_value={y}[0, 0])",
        ),
        (
            "MatrixDiagV3",
            "raw.MatrixDiagV3(diagonal={x}, k=1, num_rows=-1, num_cols=-1, "
            "padding_value={y}[0, 0])",
        ),
        (
            "MatrixDiagPartV2",
            "raw.MatrixDiagPartV2(input={x}, k=[-1, 1], padding_value={y}[0, 0])",
        ),
        (
            "MatrixDiagPartV3",
            "raw.MatrixDiagPartV3(input={x}, k=[0, 1], padding_value={y}[0, 0], "
            "align='RIGHT_LEFT')",
        ),
    ],
    x=TWO,
    y=OTHER,
)
op(
    "BatchToSpace", "raw.BatchToSpace(input={x}, crops=[[0, 1], [0, 0]], block_size=2)",
    x=[4, 1, 2, 1],
)  # fmt: skip
op("BatchToSpaceND", "tf.batch_to_space({x}, [2], [[0, 1]])", x=[2, 3, 2])
op("SpaceToBatch", "raw.SpaceToBatch(input={x}, paddings=[[0, 0], [0, 1]], block_size=2)",
   x=[1, 2, 3, 1])  # fmt: skip
op("SpaceToBatchND", "tf.space_to_batch({x}, [2], [[1, 0]])", x=[1, 3, 2])
op("DepthToSpace", "tf.nn.depth_to_space({x}, 2)", x=[1, 1, 2, 4])
op("SpaceToDepth", "tf.nn.space_to_depth({x}, 2)", x=[1, 2, 2, 2])
op(
    "ExtractImagePatches",
    "tf.image.extract_patches({x}, [1, 2, 2, 1], [1, 1, 1, 1], [1, 1, 1, 1], '{pad}')",
    x=[1, 3, 3, 1],
    pad=("SAME", "VALID"),
)
op(
    "ExtractVolumePatches",
    "tf.extract_volume_patches({x}, [1, 2, 2, 1, 1], [1, 1, 1, 1, 1], 'VALID')",
    x=[1, 2, 3, 2, 1],
)
op(
    "ConjugateTranspose",
    "tf.math.real(tf.linalg.adjoint(tf.complex({x}, {y})) @ tf.complex({y}, {x}))",
    x=TWO,
    y=OTHER,
)
op("Transpose", "tf.transpose({x}, [2, 0, 1])", x=[2, 1, 3])
op("MirrorPadGrad", "raw.MirrorPadGrad(input={x}, paddings=[[0, 1], [1, 0]], mode='REFLECT')",
   x=[3, 3])  # fmt: skip
FFT = "tf.concat([tf.math.real({0}), tf.math.imag({0})], 0)"
for name, call, shape in (
    ("FFT", "tf.signal.fft(tf.complex({x}, {y}))", [2, 3]),
    ("IFFT", "tf.signal.ifft(tf.complex({x}, {y}))", [2, 3]),
    ("FFT2D", "tf.signal.fft2d(tf.complex({x}, {y}))", [2, 3]),
    ("IFFT2D", "tf.signal.ifft2d(tf.complex({x}, {y}))", [2, 3]),
    ("FFT3D", "tf.signal.fft3d(tf.complex({x}, {y}))", [2, 1, 3]),
    ("IFFT3D", "tf.signal.ifft3d(tf.complex({x}, {y}))", [2, 1, 3]),
    ("RFFT", "tf.signal.rfft({x} * {y})", [2, 4]),
    ("RFFT2D", "tf.signal.rfft2d({x} * {y})", [2, 4]),
):
    op(name, FFT.replace("{0}", call), x=shape, y=Value(shape))
op("IRFFT", "tf.signal.irfft(tf.complex({x}, {y}), [4])", x=[2, 3], y=OTHER)
op("IRFFT2D", "tf.signal.irfft2d(tf.complex({x}, {y}), [2, 4])", x=[2, 3], y=OTHER)
op("Cumsum Roll", "tf.cumsum(tf.roll({x}, 1, 0), {axis})", x=Value(rank=(1, 2)), axis=Axis())
