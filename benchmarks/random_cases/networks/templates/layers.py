"""Products, convolutions, pooling, normalization and resampling."""

from __future__ import annotations

from benchmarks.random_cases.networks.templates.base import GRID, Value, each, op

IMAGE = [1, 3, 4, 2]
each(
    [
        ("MatMul", "{x} @ {y}"),
        ("MatMul", "tf.matmul({x}, {x}, transpose_a=True) @ {y}"),
        ("Einsum", "tf.einsum('ij,jk->ki', {x}, {y})"),
        ("Einsum", "tf.einsum('ij,jk,il->lk', {x}, {y}, {x})"),
        ("SparseMatMul", "f64(raw.SparseMatMul(a=f32({x}), b=f32({y})))"),
    ],
    x=[2, 3],
    y=[3, 2],
    weight=2,
)
each(
    [
        ("BatchMatMul", "raw.BatchMatMul(x={x}, y={y})"),
        ("BatchMatMulV2", "tf.matmul({x}, {y})"),
        ("BatchMatMulV3", "raw.BatchMatMulV3(x={x}, y={y}, Tout=tf.float64)"),
    ],
    x=[2, 1, 3],
    y=[2, 3, 2],
)
op("BatchMatMulV2", "tf.matmul({x}, {y}, adjoint_b=True)", x=[2, 2, 2], y=[1, 3, 2])
op("Einsum", "tf.einsum('bii->bi', {x})", x=[2, 2, 2])
op("Cross", "tf.linalg.cross({x}, {y})", x=[2, 3], y=[2, 3])
op("MatrixInverse", "tf.linalg.inv(tf.eye(2, dtype=tf.float64) * 3.0 + tf.tanh({x}))", x=[2, 2])
op("Cholesky", "tf.linalg.cholesky({x} @ tf.transpose({x}) + tf.eye(2, dtype=tf.float64))",
   x=[2, 2])  # fmt: skip
op("MatrixSolve", "tf.linalg.solve(tf.eye(2, dtype=tf.float64) * 3.0 + tf.tanh({x}), {y})",
   x=[2, 2], y=[2, 1])  # fmt: skip

PADS = ("SAME", "VALID")
STRIDES = ("1", "2", "[1, 2]")
op(
    "Conv2D",
    "tf.nn.conv2d({x}, {y}, {s}, '{pad}')",
    x=IMAGE, y=[2, 2, 2, 1], s=STRIDES, pad=PADS, weight=3,
)  # fmt: skip
op("Conv2D", "tf.nn.conv2d({x}, {y}, 1, '{pad}', dilations=2)",
   x=[1, 4, 3, 1], y=[2, 2, 1, 2], pad=PADS, kernels=False)  # fmt: skip
op("Conv2D", "tf.nn.conv2d({x}, {y}, 1, [[0, 0], [1, 0], [0, 1], [0, 0]])",
   x=[1, 3, 3, 1], y=[2, 2, 1, 1])  # fmt: skip
op("Conv2D", "tf.nn.conv2d({x}, {y}, 1, 'SAME')", x=[1, 3, 3, 2], y=[2, 1, 1, 2], kernels=False)
op("Conv2D", "tf.nn.conv1d({x}, {y}, 1, '{pad}')", x=[2, 4, 1], y=[2, 1, 2], pad=PADS)
op("Conv3D", "tf.nn.conv3d({x}, {y}, [1, 1, 1, 1, 1], '{pad}')",
   x=[1, 2, 2, 3, 1], y=[1, 2, 2, 1, 1], pad=PADS)  # fmt: skip
op("DepthwiseConv2dNative", "tf.nn.depthwise_conv2d({x}, {y}, [1, 1, 1, 1], '{pad}')",
   x=IMAGE, y=[2, 2, 2, 1], pad=PADS)  # fmt: skip
op("Conv2DBackpropInput", "tf.nn.conv2d_transpose({x}, {y}, [1, 3, 4, 2], {s}, 'SAME')",
   x=[1, 2, 2, 1], y=[2, 2, 2, 1], s=("2",))  # fmt: skip
op("Conv2DBackpropFilter",
   "raw.Conv2DBackpropFilter(input={x}, filter_sizes=[2, 2, 1, 1], out_backprop={y}, "
   "strides=[1, 1, 1, 1], padding='VALID')",
   x=[1, 3, 3, 1], y=[1, 2, 2, 1])  # fmt: skip
op("Conv3DBackpropInputV2",
   "tf.nn.conv3d_transpose({x}, {y}, [1, 2, 2, 3, 1], [1, 1, 1, 1, 1], 'SAME')",
   x=[1, 2, 2, 3, 1], y=[1, 2, 2, 1, 1])  # fmt: skip
op("Conv3DBackpropFilterV2",
   "raw.Conv3DBackpropFilterV2(input={x}, filter_sizes=[1, 2, 2, 1, 1], out_backprop={y}, "
   "strides=[1, 1, 1, 1, 1], padding='VALID')",
   x=[1, 2, 2, 3, 1], y=[1, 2, 1, 2, 1])  # fmt: skip
op("DepthwiseConv2dNativeBackpropInput",
   "raw.DepthwiseConv2dNativeBackpropInput(input_sizes=[1, 3, 3, 1], filter={y}, "
   "out_backprop={x}, strides=[1, 1, 1, 1], padding='SAME')",
   x=[1, 3, 3, 1], y=[2, 2, 1, 1])  # fmt: skip
op("DepthwiseConv2dNativeBackpropFilter",
   "raw.DepthwiseConv2dNativeBackpropFilter(input={x}, filter_sizes=[2, 2, 1, 1], "
   "out_backprop={y}, strides=[1, 1, 1, 1], padding='VALID')",
   x=[1, 3, 3, 1], y=[1, 2, 2, 1])  # fmt: skip

POOLED = Value([1, 3, 4, 1], domain=GRID)
each(
    [
        ("MaxPool", "tf.nn.max_pool2d({x}, {k}, {s}, '{pad}')"),
        (
            "Relu MaxPool",
            "tf.nn.max_pool2d(tf.nn.relu({x}), {k}, {s}, '{pad}') + 0.1 * {x}[:, :1, :1]",
        ),
        (
            "MaxPoolWithArgmax",
            "tf.nn.max_pool_with_argmax({x}, {k}, {s}, '{pad}', include_batch_in_index={flag})[0]",
        ),
    ],
    x=POOLED,
    k=("2", "3", "[2, 1]"),
    s=("1", "2"),
    pad=PADS,
    flag=("True", "False"),
    weight=2,
)  # fmt: skip
op("Relu MaxPool", "tf.nn.max_pool2d(tf.nn.relu({x} + {y}), 2, 2, 'VALID')",
   x=Value([1, 4, 4, 1], domain=GRID), y=Value([1], constant=True), weight=2)  # fmt: skip
op("MaxPool", "tf.nn.max_pool1d({x}, 2, 1, 'SAME')", x=Value([2, 4, 1], domain=GRID))
op("MaxPool", "tf.nn.max_pool2d({x}, 2, 1, [[0, 0], [1, 0], [0, 1], [0, 0]])", x=POOLED)
op("MaxPool3D", "f64(tf.nn.max_pool3d(f32({x}), 2, {s}, '{pad}'))",
   x=Value([1, 2, 3, 2, 1], domain=GRID), s=("1", "2"), pad=PADS)  # fmt: skip
op("MaxPoolV2",
   "raw.MaxPoolV2(input={x}, ksize=[1, 2, 2, 1], strides=[1, {s}, {s}, 1], padding='{pad}')",
   x=POOLED, s=("1", "2"), pad=PADS)  # fmt: skip
op("MaxPoolGradV2",
   "raw.MaxPoolGradV2(orig_input={x}, orig_output=tf.nn.max_pool2d({x}, 2, 1, 'SAME'), "
   "grad=tf.sin({x}), ksize=[1, 2, 2, 1], strides=[1, 1, 1, 1], padding='SAME')",
   x=POOLED)  # fmt: skip
op("MaxPoolGradWithArgmax",
   "raw.MaxPoolGradWithArgmax(input={x}, grad=tf.sin({x}), "
   "argmax=tf.nn.max_pool_with_argmax({x}, 2, 1, 'SAME')[1], ksize=[1, 2, 2, 1], "
   "strides=[1, 1, 1, 1], padding='SAME')",
   x=POOLED)  # fmt: skip
op("MaxPoolGrad",
   "raw.MaxPoolGrad(orig_input={x}, orig_output=tf.nn.max_pool2d({x}, 2, {s}, 'SAME'), "
   "grad=mix({x}, 4, *tf.nn.max_pool2d({x}, 2, {s}, 'SAME').shape), ksize=[1, 2, 2, 1], "
   "strides=[1, {s}, {s}, 1], padding='SAME')",
   x=POOLED, s=("1", "2"))  # fmt: skip
op("MaxPool3DGrad",
   "f64(raw.MaxPool3DGrad(orig_input=f32({x}), orig_output=tf.nn.max_pool3d(f32({x}), 2, 1, "
   "'SAME'), grad=f32(tf.sin({x})), ksize=[1, 2, 2, 2, 1], strides=[1, 1, 1, 1, 1], "
   "padding='SAME'))",
   x=Value([1, 2, 3, 2, 1], domain=GRID))  # fmt: skip
op("AvgPool", "tf.nn.avg_pool2d({x}, {k}, {s}, '{pad}')", x=IMAGE, k=("2", "3"), s=("1", "2"),
   pad=PADS)  # fmt: skip
op("AvgPoolGrad",
   "raw.AvgPoolGrad(orig_input_shape=[1, 3, 4, 2], grad={x}, ksize=[1, 2, 2, 1], "
   "strides=[1, 1, 1, 1], padding='SAME')", x=IMAGE)  # fmt: skip
op("AvgPool3D", "f64(tf.nn.avg_pool3d(f32({x}), 2, 1, '{pad}'))", x=[1, 2, 3, 2, 1], pad=PADS)
op("AvgPool3DGrad",
   "f64(raw.AvgPool3DGrad(orig_input_shape=[1, 2, 3, 2, 1], grad=f32({x}), "
   "ksize=[1, 2, 2, 2, 1], strides=[1, 1, 1, 1, 1], padding='SAME'))",
   x=[1, 2, 3, 2, 1])  # fmt: skip

# Normalization; tf.nn.moments stops a gradient that it should not.
op("StopGradient Rsqrt",
   "(lambda m: tf.nn.batch_normalization({x}, m[0], m[1], {y}, {z}, 0.1))"
   "(tf.nn.moments({x}, [0]))",
   x=[3, 2], y=[2], z=[2], first_order=True, weight=2)  # fmt: skip
op("StopGradient",
   "(lambda m: ({x} - m[0]) * tf.math.rsqrt(m[1] + 0.1) * {y})"
   "(tf.nn.moments({x}, [-1], keepdims=True))",
   x=[2, 3], y=[3], first_order=True, weight=2)  # fmt: skip
op("Mean Rsqrt", "({x} - tf.reduce_mean({x}, 0)) * tf.math.rsqrt(tf.math.reduce_variance({x}, 0)"
   " + 0.1) * {y} + {z}", x=[3, 2], y=[2], z=[2], weight=2)  # fmt: skip
CHANNELS = {"x": [1, 2, 3, 2], "y": [2], "z": [2]}
op("FusedBatchNormV3",
   "f64(tf.compat.v1.nn.fused_batch_norm(f32({x}), f32({y}), f32({z}), epsilon=0.1)[0])",
   first_order=True, **CHANNELS)  # fmt: skip
op("FusedBatchNormV3",
   "f64(tf.compat.v1.nn.fused_batch_norm(f32({x}), f32({y}), f32({z}), [0.1, 0.2], [0.9, 1.2], "
   "epsilon=0.1, is_training=False)[0])",
   first_order=True, **CHANNELS)  # fmt: skip
for version in ("", "V2"):
    op(f"FusedBatchNorm{version}",
       f"f64(raw.FusedBatchNorm{version}(x=f32({{x}}), scale=f32({{y}}), offset=f32({{z}}), "
       "mean=[], variance=[], epsilon=0.1)[0])",
       first_order=True, weight=0.5, **CHANNELS)  # fmt: skip
for version in ("", "V2", "V3"):
    tail = ", reserve_space_3=[]" if version == "V3" else ""
    op(f"FusedBatchNormGrad{version}",
       f"(lambda f: f64(raw.FusedBatchNormGrad{version}(y_backprop=tf.sin(f[0]), x=f32({{x}}), "
       "scale=f32({y}), reserve_space_1=f[3], reserve_space_2=f[4], epsilon=0.1"
       + tail.replace("[]", "f[5]")
       + f")[0]))(raw.FusedBatchNorm{version}(x=f32({{x}}), scale=f32({{y}}), "
       "offset=f32({z}), mean=[], variance=[], epsilon=0.1))",
       first_order=True, weight=0.5, **CHANNELS)  # fmt: skip
op("LRN", "f64(tf.nn.lrn(f32({x}), 1, 1.0, 0.5, 0.5))", x=[1, 1, 2, 3], first_order=True)
op("LRNGrad",
   "f64(raw.LRNGrad(input_grads=f32(tf.sin({x})), input_image=f32({x}), "
   "output_image=tf.nn.lrn(f32({x}), 1, 1.0, 0.5, 0.5), depth_radius=1, bias=1.0, alpha=0.5, "
   "beta=0.5))",
   x=[1, 1, 2, 3], first_order=True)  # fmt: skip

SMALL = [1, 2, 3, 1]
RESIZE = "f64(raw.{0}(images={{x}}, size=[3, 4], half_pixel_centers={{flag}}))"
FLAG = ("True", "False")
each(
    [
        ("ResizeBilinear", RESIZE.format("ResizeBilinear").replace("{x}", "f32({x})")),
        ("ResizeBicubic", RESIZE.format("ResizeBicubic").replace("{x}", "f32({x})")),
        ("ResizeNearestNeighbor", RESIZE.format("ResizeNearestNeighbor")),
    ],
    x=SMALL,
    flag=FLAG,
    first_order=True,
)
for name in ("ResizeBilinear", "ResizeBicubic"):
    op(f"{name}Grad",
       f"f64(raw.{name}Grad(grads=f32({{x}}), original_image=tf.zeros([1, 3, 2, 1]), "
       "half_pixel_centers={flag}))", x=SMALL, flag=FLAG, first_order=True)  # fmt: skip
op("ResizeNearestNeighborGrad",
   "raw.ResizeNearestNeighborGrad(grads={x}, size=[3, 2], half_pixel_centers={flag})",
   x=SMALL, flag=FLAG, first_order=True)  # fmt: skip
op("CropAndResize",
   "f64(tf.image.crop_and_resize(f32({x}), [[0.1, 0.0, 0.8, 1.0], [0.3, 0.2, 0.6, 0.9]], "
   "[0, 0], [2, 2]))", x=[1, 3, 3, 1], first_order=True)  # fmt: skip
op("ScaleAndTranslate",
   "f64(raw.ScaleAndTranslate(images=f32({x}), size=[3, 2], scale=[1.5, 0.8], "
   "translation=[0.2, -0.1], kernel_type='triangle', antialias={flag}))",
   x=SMALL, flag=FLAG, first_order=True)  # fmt: skip
