"""Choosing, scattering, segments, and lists of tensors."""

from __future__ import annotations

from benchmarks.random_cases.networks.templates.base import Value, each, op

TWO = [2, 3]
THREE = [3, 2]
each(
    [
        ("GatherV2", "tf.gather({x}, [2, 0, 2, 1])"),
        ("GatherV2", "tf.gather({x}, [[1, 0], [1, 1], [0, 1]], axis=1, batch_dims=1)"),
        ("Gather", "raw.Gather(params={x}, indices=[1, 1, 0])"),
        ("GatherNd", "tf.gather_nd({x}, [[0, 1], [2, 0], [0, 1]])"),
        ("Slice", "tf.slice({x}, [1, 0], [2, 1])"),
        ("StridedSlice", "{x}[::-2, 1:]"),
        ("StridedSlice", "{x}[..., tf.newaxis, 0]"),
        (
            "StridedSliceGrad",
            "raw.StridedSliceGrad(shape=[3, 4], begin=[0, 0], end=[3, 4], strides=[1, 2], dy={x})",
        ),
        ("ScatterNd", "tf.scatter_nd([[2], [0], [2]], {x}, [4, 2])"),
        ("SegmentSum", "tf.math.segment_sum({x}, [0, 0, 1])"),
        ("SegmentMean", "tf.math.segment_mean({x}, [0, 1, 1])"),
        ("UnsortedSegmentSum", "tf.math.unsorted_segment_sum({x}, [1, 0, 1], 2)"),
        ("SparseSegmentSum", "tf.sparse.segment_sum({x}, [2, 0, 1, 2], [0, 0, 1, 1])"),
        ("SparseSegmentMean", "tf.sparse.segment_mean({x}, [2, 0, 2], [0, 0, 1])"),
        ("SparseSegmentSqrtN", "tf.sparse.segment_sqrt_n({x}, [1, 0, 1], [0, 0, 1])"),
        ("DynamicPartition", "tf.concat(tf.dynamic_partition({x}, [1, 0, 1], 2), 0)"),
        ("DynamicPartition", "tf.multiply(*tf.dynamic_partition({x}[:2], [1, 0], 2))"),
        ("OneHot", "tf.one_hot([1, 0, 2], 3, {x}[0, 0], {x}[1, 1], dtype=tf.float64)"),
        ("LinSpace", "raw.LinSpace(start={x}[0, 0], stop={x}[1, 1], num=4)"),
        ("Range", "tf.range({x}[0, 0], {x}[0, 0] + 1.25, f64(0.5)) * {x}[1, 0]"),
        ("Range", "tf.range(f64(0.0), f64(1.25), 0.5 + 0.05 * tf.tanh({x}[0, 1]))"),
    ],
    x=THREE,
)
for kind in ("Sum", "Mean", "SqrtN"):
    op(
        f"SparseSegment{kind}Grad",
        f"raw.SparseSegment{kind}Grad(grad={{x}}[:2], indices=[2, 0, 2], segment_ids=[0, 0, 1], "
        "output_dim0=3)",
        x=THREE,
        weight=0.5,
    )
each(
    [
        ("TensorScatterAdd", "tf.tensor_scatter_nd_add({x}, [[2], [0], [2]], {y})"),
        ("TensorScatterSub", "tf.tensor_scatter_nd_sub({x}, [[1], [0], [1]], {y})"),
        ("TensorScatterUpdate", "tf.tensor_scatter_nd_update({x}, [[2], [0]], {y}[:2])"),
        (
            "ScatterNdNonAliasingAdd",
            "raw.ScatterNdNonAliasingAdd(input={x}, indices=[[1], [1], [0]], updates={y})",
        ),
        (
            "TensorStridedSliceUpdate",
            "raw.TensorStridedSliceUpdate(input={x}, begin=[0, 0], end=[2, 2], strides=[1, 1], "
            "value={y}[:2])",
        ),
        ("DynamicStitch", "tf.dynamic_stitch([[0, 2, 1], [3, 1]], [{x}, {y}[:2]])"),
        (
            "ParallelDynamicStitch",
            "raw.ParallelDynamicStitch(indices=[[0, 2, 3], [1, 4]], data=[{x}, {y}[1:]])",
        ),
    ],
    x=THREE,
    y=Value([3, 2]),
)
# Lists: what tf.TensorArray, tf.map_fn and tf.scan are made of.
ARRAY = "tf.TensorArray(tf.float64, 3, element_shape=[2])"
RAW = "raw.TensorListFromTensor(tensor={x}, element_shape=[2])"
STACK = "raw.TensorListStack(input_handle={0}, element_shape=[2], element_dtype=tf.float64)"


def stacked(expression: str) -> str:
    """Returns the entries of a list as one tensor."""
    return STACK.replace("{0}", expression)


each(
    [
        ("TensorListFromTensor TensorListStack", f"{ARRAY}.unstack({{x}} * {{x}}).stack()"),
        (
            "TensorListSetItem TensorListGetItem",
            f"(lambda a: a.read(0) * a.read(1))({ARRAY}.write(0, {{x}}[0]).write(1, {{x}}[2]))",
        ),
        ("TensorListGather", f"{ARRAY}.unstack({{x}}).gather([2, 0, 2])"),
        (
            "TensorListScatterIntoExistingList",
            f"{ARRAY}.scatter([2, 0], {{x}}[:2]).write(1, {{x}}[2]).stack()",
        ),
        (
            "TensorListScatterV2",
            stacked(
                "raw.TensorListScatterV2(tensor={x}, indices=[1, 0, 2], element_shape=[2], "
                "num_elements=3)"
            ),
        ),
        (
            "TensorListScatter",
            stacked("raw.TensorListScatter(tensor={x}, indices=[1, 0, 2], element_shape=[2])"),
        ),
        (
            "TensorListSplit TensorListConcatV2",
            "tf.TensorArray(tf.float64, 2, infer_shape=False).split({x}, [1, 2]).concat()",
        ),
        (
            "TensorListConcat",
            "raw.TensorListConcat(input_handle=raw.TensorListSplit(tensor={x}, "
            "element_shape=[-1, 2], lengths=tf.constant([1, 2], tf.int64)), "
            "element_dtype=tf.float64, element_shape=[None, 2])[0]",
        ),
        (
            "TensorListPushBack",
            stacked(f"raw.TensorListPushBack(input_handle={RAW}, tensor=tf.sin({{x}}[0]))"),
        ),
        (
            "TensorListPopBack",
            f"(lambda pop: {STACK.replace('{0}', 'pop[0]')} * pop[1])(raw.TensorListPopBack("
            f"input_handle={RAW}, element_shape=[2], element_dtype=tf.float64))",
        ),
        ("TensorListResize", stacked(f"raw.TensorListResize(input_handle={RAW}, size=2)")),
        (
            "TensorListConcatLists",
            stacked(
                f"raw.TensorListConcatLists(input_a={RAW}, input_b="
                f"{RAW.replace('{x}', 'tf.sin({x})')}, element_dtype=tf.float64)"
            ),
        ),
        (
            "TensorListPushBackBatch",
            "(lambda lists: "
            + " * ".join(stacked(f"lists[{i}]") for i in range(2))
            + ")(tf.unstack(raw.TensorListPushBackBatch(input_handles=tf.stack(["
            f"{RAW}, {RAW.replace('{x}', '(2.0 * {x})')}]), tensor={{x}}[1:]), 2))",
        ),
        (
            "OptionalFromValue OptionalGetValue",
            "raw.OptionalGetValue(optional=raw.OptionalFromValue(components=[tf.square({x})]), "
            "output_types=[tf.float64], output_shapes=[[3, 2]])[0]",
        ),
    ],
    x=THREE,
    weight=0.6,
)
