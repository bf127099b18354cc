"""Gluon's names for the bulk copies, which changed between the Triton versions that this package runs on."""

from triton.experimental.gluon.language.nvidia.hopper import tma

# Triton 3.6 has the long names, 3.9 the short ones alone (the long ones are there, and raise).
async_load = tma.async_load if hasattr(tma, "async_load") else tma.async_copy_global_to_shared
async_store = tma.async_store if hasattr(tma, "async_store") else tma.async_copy_shared_to_global
