"""Errors of torch and of CUDA as ours: which mean that memory ran out, and which that the process is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from anime_generator.engines.protocol import OUT_OF_MEMORY, EngineError
from anime_generator.memory import DeviceFaultError, OutOfMemoryError

NO_ROOM = (
    "out of memory",  # CUDA, HIP, and allocations past torch's allocator (streams, pinned pages)
    "can't allocate memory",  # the C library
    "ALLOC_FAILED",  # cuBLAS and cuDNN making their handles and workspaces
)
LOST = ("CUDA error", "CUDA driver error", "HIP error", "cuDNN error", "CUDNN_STATUS", "CUBLAS_STATUS", "cuBLAS")
"""After any of these every later call of the process fails too, whatever it asks for."""


def of_the_device(error: BaseException) -> bool:
    """Whether an error tells of the device or of its memory, and nothing of what was being done."""
    if isinstance(error, (torch.OutOfMemoryError, OutOfMemoryError, MemoryError, DeviceFaultError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in (*NO_ROOM, *LOST))


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise EngineError: out of memory may pass, a broken CUDA context needs a new process."""
    try:
        yield
    except (torch.OutOfMemoryError, OutOfMemoryError, MemoryError) as error:
        raise _no_room(doing, error) from error
    except DeviceFaultError as error:
        raise _lost(doing, error) from error
    except RuntimeError as error:
        text = str(error)
        if any(sign in text for sign in NO_ROOM):
            raise _no_room(doing, error) from error
        if any(sign in text for sign in LOST):
            raise _lost(doing, error) from error
        raise EngineError("engine_error", f"{doing} failed: {text}") from error


def _no_room(doing: str, error: BaseException) -> EngineError:
    return EngineError(OUT_OF_MEMORY, f"out of memory while {doing}: {error}")


def _lost(doing: str, error: BaseException) -> EngineError:
    return EngineError("device_error", f"the device failed while {doing}: {error}", poisoned=True)
