"""Loading a model while the user watches."""

from flashvsr_cli.console import fetching, print_line
from flashvsr_cli.model.network import choose_model, resolve_device
from flashvsr_cli.options import ModelOptions
from flashvsr_cli.pipeline import Upscaler
from flashvsr_cli.weights_registry import read_registry


def load_and_tell(options: ModelOptions, *, quiet: bool) -> Upscaler:
    """Load a model, say which one and where, and show what is downloaded or hashed.

    Raises:
        WeightsError: the checkpoint is missing, damaged or mixed up.
        DeviceError: there is no such device.
    """
    device = resolve_device(options.device)
    name, released = choose_model(options.model, options.device), read_registry().default
    if not quiet:
        print_line(f"loading {name} on {device}")
        if options.model == "auto" and name != released:
            print_line(
                f"note: on a CPU, auto is the small model {name}; --model {released} is the released one, far slower"
            )
    with fetching(quiet=quiet) as on_progress:
        upscaler = Upscaler.load(
            options.model,
            version=options.version,
            decoder=options.decoder,
            device=options.device,
            dtype=options.dtype,
            backend=options.backend,
            fp8=options.fp8,
            on_progress=on_progress,
        )
    notice = upscaler.network.transformer.notice
    if notice and not quiet:
        print_line(f"note: {notice}")
    return upscaler
