"""The C structures of model/kernels/types.h, field by field."""

from __future__ import annotations

import ctypes

PRECISIONS = {"float32": 0, "bfloat16": 1, "int8": 2, "int4": 3}
ACTIVATIONS = {"gelu_tanh": 0, "gelu_erf": 1, "relu": 2, "silu": 3, "tanh": 4}

_POINTER = ctypes.c_void_p


class Thin(ctypes.Structure):
    """An adapter's two thin matrices beside one matrix."""

    _fields_ = (
        ("a", _POINTER),
        ("b", _POINTER),
        ("offset", _POINTER),
        ("rank", ctypes.c_int32),
    )


class Matrix(ctypes.Structure):
    """A linear layer's interleaved weight, its scales and its bias, and what adapters add."""

    _fields_ = (
        ("packed", _POINTER),
        ("scales", _POINTER),
        ("bias", _POINTER),
        ("thins", ctypes.POINTER(Thin)),
        ("precision", ctypes.c_int32),
        ("num_outputs", ctypes.c_int32),
        ("num_inputs", ctypes.c_int32),
    )


class Layer(ctypes.Structure):
    """One transformer layer, its norms where they are read: see types.h."""

    _fields_ = (
        ("ln_1_gain", _POINTER),
        ("ln_1_bias", _POINTER),
        ("ln_2_gain", _POINTER),
        ("ln_2_bias", _POINTER),
        ("c_attn", Matrix),
        ("attn_proj", Matrix),
        ("c_fc", Matrix),
        ("mlp_proj", Matrix),
        ("score_scale", ctypes.c_float),
    )


class Cache(ctypes.Structure):
    """A SlotCache."""

    _fields_ = (
        ("keys", _POINTER),
        ("values", _POINTER),
        ("key_scales", _POINTER),
        ("value_scales", _POINTER),
        ("precision", ctypes.c_int32),
        ("num_slots", ctypes.c_int32),
        ("num_positions", ctypes.c_int32),
    )


class Decoder(ctypes.Structure):
    """Every layer and the sizes."""

    _fields_ = (
        ("layers", ctypes.POINTER(Layer)),
        ("ln_f_gain", _POINTER),
        ("ln_f_bias", _POINTER),
        ("num_layers", ctypes.c_int32),
        ("num_channels", ctypes.c_int32),
        ("num_heads", ctypes.c_int32),
        ("num_inner", ctypes.c_int32),
        ("activation", ctypes.c_int32),
        ("epsilon", ctypes.c_float),
        ("is_post_norm", ctypes.c_int32),
        ("max_rank", ctypes.c_int32),
    )


class Step(ctypes.Structure):
    """One pass."""

    _fields_ = (
        ("x", _POINTER),
        ("hidden", _POINTER),
        ("spans", _POINTER),
        ("wanted", _POINTER),
        ("adapters", _POINTER),
        ("num_tokens", ctypes.c_int64),
        ("num_spans", ctypes.c_int64),
        ("num_wanted", ctypes.c_int64),
        ("scratch", _POINTER),
    )
