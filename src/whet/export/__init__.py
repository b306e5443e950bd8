"""From a finished run to what other tools load: written, read back by the tool's own library, compared, then named.

`EXPORTS` is the table of formats; each function writes one folder and returns it.
"""

from collections.abc import Callable
from pathlib import Path

from whet.export.adapter import export_adapter, export_vllm
from whet.export.gguf_export import export_gguf, export_gguf_lora
from whet.export.merged import export_merged
from whet.export.ollama import export_ollama
from whet.export.request import Request

EXPORTS: dict[str, Callable[[Request], Path]] = {
    "adapter": export_adapter,
    "hf": export_merged,
    "vllm": export_vllm,
    "gguf": export_gguf,
    "gguf-lora": export_gguf_lora,
    "ollama": export_ollama,
}

__all__ = ["EXPORTS", "Request"]
