# SPDX-License-Identifier: Apache-2.0
"""The ordered lists of passes, one a stage. A pass's place here is its order."""

from collections.abc import Callable

import onnx_ir as ir
import onnx_ir.passes.common as common

from qcompile.passes.lower.fold_dequantize_into_floats import FoldDequantizeIntoFloats
from qcompile.passes.lower.fold_repeat_into_attention import FoldRepeatIntoAttention
from qcompile.passes.lower.fold_transpose_into_attention import FoldTransposeIntoAttention
from qcompile.passes.lower.insert_columns_into_matmul_integer import (
    InsertColumnsIntoMatmulInteger,
)
from qcompile.passes.lower.insert_outputs_into_static_product import (
    InsertOutputsIntoStaticProduct,
)
from qcompile.passes.lower.insert_zero_point_into_weight import InsertZeroPointIntoWeight
from qcompile.passes.lower.lower_add import LowerAdd
from qcompile.passes.lower.lower_attention import LowerAttention
from qcompile.passes.lower.lower_concat import LowerConcat
from qcompile.passes.lower.lower_conv import LowerConv
from qcompile.passes.lower.lower_dynamic_attention import LowerDynamicAttention
from qcompile.passes.lower.lower_function import LowerFunction
from qcompile.passes.lower.lower_gather import LowerGather
from qcompile.passes.lower.lower_gather_into_standard_ops import LowerGatherIntoStandardOps
from qcompile.passes.lower.lower_layer_norm import LowerLayerNorm
from qcompile.passes.lower.lower_lstm_into_dynamic_quantize_lstm import (
    LowerLstmIntoDynamicQuantizeLstm,
)
from qcompile.passes.lower.lower_mask_into_where import LowerMaskIntoWhere
from qcompile.passes.lower.lower_matmul import LowerMatmul
from qcompile.passes.lower.lower_matmul_into_matmul_nbits import LowerMatmulIntoMatmulNbits
from qcompile.passes.lower.lower_pool import LowerPool
from qcompile.passes.lower.lower_product_into_integer_op import LowerProductIntoIntegerOp
from qcompile.passes.lower.lower_requantize_into_dyadic import LowerRequantizeIntoDyadic
from qcompile.passes.lower.lower_resize import LowerResize
from qcompile.passes.lower.lower_rotation import LowerRotation
from qcompile.passes.lower.lower_softmax import LowerSoftmax
from qcompile.passes.lower.lower_split import LowerSplit
from qcompile.passes.lower.move_dequantize_past_data_op import MoveDequantizePastDataOp
from qcompile.passes.lower.move_gather_to_transposed_codes import MoveGatherToTransposedCodes
from qcompile.passes.lower.move_quantize_before_transpose import MoveQuantizeBeforeTranspose
from qcompile.passes.lower.move_shape_before_dequantize import MoveShapeBeforeDequantize
from qcompile.passes.lower.move_transpose_into_codes import MoveTransposeIntoCodes
from qcompile.passes.lower.move_transpose_past_op import MoveTransposePastOp
from qcompile.passes.lower.split_shared_weight import SplitSharedWeight
from qcompile.passes.normalise.convert_floats import ConvertFloats
from qcompile.passes.normalise.convert_opset import ConvertOpset
from qcompile.passes.normalise.convert_quantizer_scales import ConvertQuantizerScales
from qcompile.passes.normalise.fold_affine_into_coded_product import FoldAffineIntoCodedProduct
from qcompile.passes.normalise.fold_affine_into_next_conv import FoldAffineIntoNextConv
from qcompile.passes.normalise.fold_affine_into_product import FoldAffineIntoProduct
from qcompile.passes.normalise.fold_auto_pad_into_pads import FoldAutoPadIntoPads
from qcompile.passes.normalise.fold_batch_norm_into_conv import FoldBatchNormIntoConv
from qcompile.passes.normalise.fold_constant_of_shape import FoldConstantOfShape
from qcompile.passes.normalise.fold_constants import FoldConstants
from qcompile.passes.normalise.fold_data_op_into_weight import FoldDataOpIntoWeight
from qcompile.passes.normalise.fold_pad_into_conv import FoldPadIntoConv
from qcompile.passes.normalise.fold_quantize_into_codes import FoldQuantizeIntoCodes
from qcompile.passes.normalise.fold_scale_into_floats import FoldScaleIntoFloats
from qcompile.passes.normalise.fold_shape_into_reshape import FoldShapeIntoReshape
from qcompile.passes.normalise.fuse_complex_roots_into_matmul import FuseComplexRootsIntoMatmul
from qcompile.passes.normalise.fuse_moments_into_layer_norm import FuseMomentsIntoLayerNorm
from qcompile.passes.normalise.fuse_reciprocal_into_div import FuseReciprocalIntoDiv
from qcompile.passes.normalise.fuse_softmax import FuseSoftmax
from qcompile.passes.normalise.insert_height_into_conv import InsertHeightIntoConv
from qcompile.passes.normalise.insert_names import InsertNames
from qcompile.passes.normalise.insert_quantizer_behind_data_op import (
    InsertQuantizerBehindDataOp,
)
from qcompile.passes.normalise.insert_shapes_behind_nbits import InsertShapesBehindNbits
from qcompile.passes.normalise.lower_conv_transpose_into_conv import LowerConvTransposeIntoConv
from qcompile.passes.normalise.lower_einsum_into_matmul import LowerEinsumIntoMatmul
from qcompile.passes.normalise.merge_duplicates import MergeDuplicates
from qcompile.passes.normalise.move_constants_into_bodies import MoveConstantsIntoBodies
from qcompile.passes.normalise.move_data_op_out_of_codes import MoveDataOpOutOfCodes
from qcompile.passes.normalise.move_pixel_order_into_conv import MovePixelOrderIntoConv
from qcompile.passes.normalise.move_signed_codes_to_unsigned import MoveSignedCodesToUnsigned
from qcompile.passes.normalise.move_squeeze_past_op import MoveSqueezePastOp
from qcompile.passes.normalise.move_transpose_out_of_weight import MoveTransposeOutOfWeight
from qcompile.passes.normalise.move_weight_to_right import MoveWeightToRight
from qcompile.passes.normalise.remove_unused import RemoveUnused
from qcompile.passes.normalise.split_attention import SplitAttention
from qcompile.passes.normalise.split_batch_norm import SplitBatchNorm
from qcompile.passes.normalise.split_batched_weight import SplitBatchedWeight
from qcompile.passes.normalise.split_bias_gelu import SplitBiasGelu
from qcompile.passes.normalise.split_dynamic_product import SplitDynamicProduct
from qcompile.passes.normalise.split_embed_layer_norm import SplitEmbedLayerNorm
from qcompile.passes.normalise.split_fused_product import SplitFusedProduct
from qcompile.passes.normalise.split_gemm import SplitGemm
from qcompile.passes.normalise.split_qlinear_op_into_qdq import SplitQlinearOpIntoQdq
from qcompile.passes.normalise.split_recurrent import SplitRecurrent
from qcompile.passes.normalise.split_skip_layer_norm import SplitSkipLayerNorm
from qcompile.passes.transform.code_store import CodeStore
from qcompile.passes.transform.correct_bias import CorrectBias
from qcompile.passes.transform.fold_codes_into_floats import FoldCodesIntoFloats
from qcompile.passes.transform.insert_low_rank import InsertLowRank
from qcompile.passes.transform.insert_polish import InsertPolish
from qcompile.passes.transform.insert_quantizers import InsertQuantizers
from qcompile.passes.transform.insert_user_codes import InsertUserCodes
from qcompile.passes.transform.round_bias import RoundBias
from qcompile.passes.transform.round_recurrent_weights import RoundRecurrentWeights
from qcompile.passes.transform.round_weights import RoundWeights
from qcompile.passes.transform.stats import Work

Pass = ir.passes.InPlacePass


def NAME() -> list[Pass]:
    """One opset, no functions, names for all, bodies that hold their constants: all graphs at once.

    Verify starts here, too, where it looks at bodies that its data does not run.
    """
    return [
        ConvertOpset(),
        common.InlinePass(),
        InsertNames(),
        ConvertFloats(),
        FoldConstants(),
        MoveConstantsIntoBodies(),
    ]


def NORMALISE(
    is_split: Callable[[ir.Node], bool] = lambda _: False,
    is_turned: Callable[[ir.Node], bool] = lambda _: False,
) -> list[Pass]:
    """Few op kinds, BatchNorm folded, weights [N, K], names frozen.

    is_split: recurrent nodes that become products; is_turned: complex ones with turned weights.
    """
    return [
        *NAME(),
        SplitRecurrent(is_split),
        FoldConstantOfShape(),
        FoldScaleIntoFloats(),
        ConvertQuantizerScales(),
        SplitQlinearOpIntoQdq(),
        SplitDynamicProduct(),
        MoveDataOpOutOfCodes(),
        FoldQuantizeIntoCodes(),
        MoveSignedCodesToUnsigned(),
        InsertQuantizerBehindDataOp(),
        RemoveUnused(),
        FoldDataOpIntoWeight(),
        SplitFusedProduct(),
        SplitAttention(),
        SplitEmbedLayerNorm(),
        SplitSkipLayerNorm(),
        SplitBiasGelu(),
        LowerEinsumIntoMatmul(),
        SplitGemm(),
        SplitBatchedWeight(),
        MoveWeightToRight(),
        FuseComplexRootsIntoMatmul(is_turned),
        MoveTransposeOutOfWeight(),
        FoldAutoPadIntoPads(),
        FoldPadIntoConv(),
        FoldBatchNormIntoConv(),
        SplitBatchNorm(),
        FoldAffineIntoProduct(),
        FoldAffineIntoCodedProduct(),
        FoldAffineIntoNextConv(),
        LowerConvTransposeIntoConv(),
        MovePixelOrderIntoConv(),
        FuseReciprocalIntoDiv(),
        FuseMomentsIntoLayerNorm(),
        FuseSoftmax(),
        InsertHeightIntoConv(),
        MoveSqueezePastOp(),
        FoldShapeIntoReshape(),
        MergeDuplicates(),
        RemoveUnused(),
        InsertNames(),
        InsertShapesBehindNbits(),
    ]


def TRANSFORM(work: Work) -> list[Pass]:
    """From the plan and the statistics to the QDQ graph."""
    store = CodeStore(work)
    return [
        CorrectBias(work, store),
        InsertLowRank(work),
        RoundWeights(work, store),
        RoundRecurrentWeights(work, store),
        InsertUserCodes(work, store),
        FoldCodesIntoFloats(),
        InsertQuantizers(work),
        InsertPolish(work),
        RoundBias(work, store),
        RemoveUnused(),
    ]


def LOWER_CPU() -> list[Pass]:
    """com.qcompile compute ops, NHWC inside."""
    return [
        LowerConv(),
        LowerMatmul(),
        LowerGather(),
        LowerLstmIntoDynamicQuantizeLstm(),
        LowerAdd(),
        LowerPool(),
        LowerResize(),
        LowerLayerNorm(),
        LowerSoftmax(),
        LowerAttention(),
        LowerDynamicAttention(),
        FoldDequantizeIntoFloats(),  # a number among them makes a function of the op
        LowerFunction(),
        LowerConcat(),
        LowerSplit(),
        MoveShapeBeforeDequantize(),
        MoveDequantizePastDataOp(),
        RemoveUnused(),  # dequantizers whose readers are gone would hide who reads the codes
        LowerRotation(),
        MoveTransposePastOp(),
        FoldRepeatIntoAttention(),
        FoldTransposeIntoAttention(),
        LowerMaskIntoWhere(),
        MoveQuantizeBeforeTranspose(),
        SplitSharedWeight(),  # of ONNX Runtime's own LSTM, or what the user's model has
        RemoveUnused(),
    ]


def LOWER_INTEGER() -> list[Pass]:
    """The ops of cpu with dyadic numbers in place of float multipliers."""
    return [*LOWER_CPU(), LowerRequantizeIntoDyadic(), RemoveUnused()]


def LOWER_ORT() -> list[Pass]:
    """Standard ops and com.microsoft MatMulNBits; static regions stay QDQ, which ORT fuses."""
    return [
        LowerProductIntoIntegerOp(),
        InsertColumnsIntoMatmulInteger(),
        LowerMatmulIntoMatmulNbits(),
        LowerGatherIntoStandardOps(),
        LowerLstmIntoDynamicQuantizeLstm(),
        InsertOutputsIntoStaticProduct(),
        MoveTransposeIntoCodes(),
        RemoveUnused(),  # dequantizers of products that have other codes now
        MoveGatherToTransposedCodes(),
        SplitSharedWeight(),
        InsertZeroPointIntoWeight(),
        LowerMaskIntoWhere(),
        MoveQuantizeBeforeTranspose(),
        RemoveUnused(),
    ]
