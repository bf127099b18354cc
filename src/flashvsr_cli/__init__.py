"""FlashVSR as a command and a library.

Importing this package loads neither torch nor av: the public names are resolved on first use.
"""

from typing import TYPE_CHECKING, Any

from flashvsr_cli.options import Settings

if TYPE_CHECKING:
    from flashvsr_cli.pipeline import Upscaler

__version__ = "0.1.0"
__all__ = ["Settings", "Upscaler", "__version__"]


def __getattr__(name: str) -> Any:
    """Resolve the names that need torch on first use (PEP 562)."""
    if name == "Upscaler":
        from flashvsr_cli.pipeline import Upscaler

        return Upscaler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
