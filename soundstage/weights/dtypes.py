"""Check from headers the dtypes that weights are stored in. Loads no torch."""

from __future__ import annotations

from soundstage.errors import WeightsError
from soundstage.weights.gguf import is_packed
from soundstage.weights.layouts import PartTensors, StoredTensor

FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
FP8_NAMES = frozenset({"F8_E4M3", "F8_E5M2"})
QUANTIZED_NAMES = FP8_NAMES | {"I8"}


def check_dtypes(tensors: PartTensors) -> None:
    """Raise WeightsError for a dtype or a quantization that is not read here, naming file and tensor."""
    for key, tensor in tensors.items():
        problem = _dtype_problem(key, tensor)
        if problem is not None:
            raise WeightsError(f"{tensor.path}: '{tensor.name}' {problem}")


def _dtype_problem(key: str, tensor: StoredTensor) -> str | None:
    dtype, shape = tensor.entry.dtype, tensor.entry.shape
    advice = "get the BF16 or FP8 file"
    if "weight_scale_2" in tensor.sidecars or "pre_quant_scale" in tensor.sidecars:
        return f"is quantized to NVFP4 or AWQ, which this engine does not read; {advice}"
    if dtype in QUANTIZED_NAMES and ("scale_shift_table" in key or "norm" in key.rsplit(".", 2)[-2]):
        return f"is stored as {dtype}, where LTX-2.3 needs floating-point values; {advice}"
    if dtype == "I8" and tensor.scale is None:
        return f"is stored as I8 without a scale, which makes its values meaningless; {advice}"
    if dtype not in FLOATS | QUANTIZED_NAMES and not is_packed(dtype):
        return f"is stored as {dtype}, which is no dtype of weights read here; {advice}"
    if tensor.scale is None:
        return None
    scale = tensor.sidecars["weight_scale"][1]
    if scale.dtype not in FLOATS:
        return f"has a scale of dtype {scale.dtype} (MXFP8), which this engine does not read; {advice}"
    if scale.num_params != 1 and scale.shape not in ((shape[0],), (shape[0], 1)):
        return (
            f"is {dtype} {list(shape)}, and its scale '{tensor.scale}' has the shape {list(scale.shape)}, "
            f"which is neither one number nor one per row; {advice}"
        )
    return None
