# SPDX-License-Identifier: Apache-2.0
"""The ordered lists of passes, one a stage. A pass's place here is its order."""

import onnx_ir as ir
import onnx_ir.passes.common as common

from qcompile.passes.lower.lower_add import LowerAdd
from qcompile.passes.lower.lower_conv import LowerConv
from qcompile.passes.lower.lower_gather import LowerGather
from qcompile.passes.lower.lower_gather_into_standard_ops import LowerGatherIntoStandardOps
from qcompile.passes.lower.lower_matmul import LowerMatmul
from qcompile.passes.lower.lower_matmul_into_matmul_nbits import LowerMatmulIntoMatmulNbits
from qcompile.passes.lower.lower_pool import LowerPool
from qcompile.passes.lower.lower_product_into_integer_op import LowerProductIntoIntegerOp
from qcompile.passes.lower.move_dequantize_past_data_op import MoveDequantizePastDataOp
from qcompile.passes.lower.move_shape_before_dequantize import MoveShapeBeforeDequantize
from qcompile.passes.lower.move_transpose_into_codes import MoveTransposeIntoCodes
from qcompile.passes.lower.move_transpose_past_op import MoveTransposePastOp
from qcompile.passes.normalise.fold_batch_norm_into_conv import FoldBatchNormIntoConv
from qcompile.passes.normalise.fold_constants import FoldConstants
from qcompile.passes.normalise.fold_shape_into_reshape import FoldShapeIntoReshape
from qcompile.passes.normalise.insert_names import InsertNames
from qcompile.passes.normalise.merge_duplicates import MergeDuplicates
from qcompile.passes.normalise.move_transpose_out_of_weight import MoveTransposeOutOfWeight
from qcompile.passes.normalise.remove_unused import RemoveUnused
from qcompile.passes.transform.code_store import CodeStore
from qcompile.passes.transform.correct_bias import CorrectBias
from qcompile.passes.transform.insert_quantizers import InsertQuantizers
from qcompile.passes.transform.round_bias import RoundBias
from qcompile.passes.transform.round_weights import RoundWeights
from qcompile.passes.transform.stats import Work

Pass = ir.passes.InPlacePass


def NORMALISE() -> list[Pass]:
    """Few op kinds, BatchNorm folded, weights [N, K], names frozen."""
    return [
        common.InlinePass(),
        InsertNames(),
        FoldConstants(),
        RemoveUnused(),
        MoveTransposeOutOfWeight(),
        FoldBatchNormIntoConv(),
        FoldShapeIntoReshape(),
        MergeDuplicates(),
        RemoveUnused(),
        InsertNames(),
    ]


def TRANSFORM(work: Work) -> list[Pass]:
    """From the plan and the statistics to the QDQ graph."""
    store = CodeStore()
    return [
        CorrectBias(work),
        RoundWeights(work, store),
        InsertQuantizers(work),
        RoundBias(work, store),
        RemoveUnused(),
    ]


def LOWER_CPU() -> list[Pass]:
    """com.qcompile compute ops, NHWC inside."""
    return [
        LowerConv(),
        LowerMatmul(),
        LowerGather(),
        LowerAdd(),
        LowerPool(),
        MoveShapeBeforeDequantize(),
        MoveDequantizePastDataOp(),
        MoveTransposePastOp(),
        RemoveUnused(),
    ]


def LOWER_ORT() -> list[Pass]:
    """Standard ops and com.microsoft MatMulNBits; static regions stay QDQ, which ORT fuses."""
    return [
        LowerProductIntoIntegerOp(),
        LowerMatmulIntoMatmulNbits(),
        LowerGatherIntoStandardOps(),
        MoveTransposeIntoCodes(),
        RemoveUnused(),
    ]
