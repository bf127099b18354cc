"""A whole batch: plan, choose, load the model if there is something to do, run, and say what became of it."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashvsr_cli import __version__
from flashvsr_cli.batch.choice import Choice, Chooser, failed_last_time, model_facts, settings_of
from flashvsr_cli.batch.console import batch_reporter
from flashvsr_cli.batch.estimate import Estimate, probing
from flashvsr_cli.batch.plan import BatchItem, plan_batch
from flashvsr_cli.batch.record import RECORD_NAME, Record
from flashvsr_cli.batch.result import BatchResult, Failure
from flashvsr_cli.batch.run import BatchOptions, BatchRun
from flashvsr_cli.console import fetching, print_line
from flashvsr_cli.jobs import Job
from flashvsr_cli.model.traits import Traits
from flashvsr_cli.options import EncodeOptions, InputOptions, ModelOptions, Settings
from flashvsr_cli.preflight import check_report
from flashvsr_cli.report import write_report
from flashvsr_cli.tables import print_batch
from flashvsr_cli.video.faults import output_faults
from flashvsr_cli.video.formats import IMAGE_SUFFIXES, UNENCODED_SUFFIXES
from flashvsr_cli.video.writer import refuse_encoder_options
from flashvsr_cli.weights import resolve_checkpoint

if TYPE_CHECKING:
    from flashvsr_cli.pipeline import Upscaler


@dataclass(frozen=True)
class BatchRequest:
    """What the user asked for.

    Attributes:
        inputs: folders, files and patterns.
        options: where to, and how the batch runs.
        model: which weights, where.
        choose_settings: from the model's settings to those that are used.
        scale: output side over input side.
        input: for every video; pictures take its limit only.
        encode: for every video; pictures and Y4M take its limit only.
        recursive, extension: as for `plan_batch`.
        overwrite: whatever is there is replaced.
        redo: what an earlier batch made is made again.
        resume: unfinished videos are taken up.
        only_failed: only what failed when it was last tried.
        report: where to write what happened, as JSON.
        quiet: failures only.
    """

    inputs: Sequence[str]
    options: BatchOptions
    model: ModelOptions
    choose_settings: Callable[[Settings], Settings]
    scale: float = 4.0
    input: InputOptions = field(default_factory=InputOptions)
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    recursive: bool = False
    extension: str | None = None
    overwrite: bool = False
    redo: bool = False
    resume: bool = False
    only_failed: bool = False
    report: Path | None = None
    quiet: bool = False

    def job(self, item: BatchItem) -> Job:
        """What would be run for one file."""
        suffixes = {item.source.suffix.lower(), item.target.suffix.lower()}
        is_picture = bool(suffixes & IMAGE_SUFFIXES)
        encode = self.encode
        if not _is_encoded(item):
            encode = EncodeOptions(max_pixels=encode.max_pixels)
        return Job(
            str(item.source),
            str(item.target),
            scale=self.scale,
            input=InputOptions(max_pixels=self.input.max_pixels) if is_picture else self.input,
            encode=encode,
            resume=self.resume and not suffixes & UNENCODED_SUFFIXES,
        )

    def model_facts(self) -> dict[str, Any]:
        """What decides the pictures, without loading the model; fetches it if it is not there."""
        options = self.model
        name = options.model
        if name == "auto":  # Only PyTorch knows whether there is a CUDA device.
            from flashvsr_cli.model.network import choose_model

            name = choose_model(name, options.device)
        with fetching(quiet=self.quiet) as on_progress:
            checkpoint = resolve_checkpoint(
                name, version=options.version, decoder=options.decoder, on_progress=on_progress
            )
        return model_facts(checkpoint, options, self.choose_settings(Traits.of(checkpoint.metadata).settings))

    def tell(self, text: str) -> None:
        """A note for the user."""
        if not self.quiet:
            print_line(f"note: {text}")


def _is_encoded(item: BatchItem) -> bool:
    """Whether the result is a video that an encoder makes."""
    return item.target.suffix.lower() not in UNENCODED_SUFFIXES


def run_request(request: BatchRequest) -> bool:
    """Do all of it; whether no file failed.

    Raises:
        InputError: there is nothing to do.
        OutputError: the report cannot be written.
        UsageError: the inputs or options contradict each other.
        WeightsError, DeviceError: the model cannot be loaded.
    """
    folder = request.options.folder
    if request.extension and f".{request.extension.lstrip('.').lower()}" in UNENCODED_SUFFIXES:
        refuse_encoder_options(f"--extension {request.extension} names no encoded video", request.encode)
    plan = plan_batch(request.inputs, folder, recursive=request.recursive, extension=request.extension)
    if request.report:
        sources = [str(item.source) for item in plan.items]
        targets = [str(folder / RECORD_NAME), *(str(item.target) for item in plan.items)]
        check_report(request.report, sources, targets, overwrite=request.overwrite)
    record = Record(folder)
    for text in (*plan.notices, *record.notices):
        request.tell(text)
    items = failed_last_time(plan.items, record) if request.only_failed else plan.items
    if request.only_failed and not items:
        request.tell("Nothing failed when it was last tried.")
    get_model_facts = cache(request.model_facts)
    chooser = Chooser(record, get_model_facts, request.overwrite, request.redo, request.tell)
    choices = [chooser.choose(item, request.job(item)) for item in items]

    results = [BatchResult(str(path), None, "failed", failure=Failure.of(error)) for path, error in plan.refused]
    results += [
        BatchResult(str(choice.item.source), str(choice.item.target), "skipped", reason=choice.reason)
        for choice in choices
        if choice.job is None
    ]
    todo = [choice for choice in choices if choice.job is not None]
    n_all = len(results) + len(todo)
    n_plain = sum(not _is_encoded(choice.item) for choice in todo)
    if n_plain and request.encode.has_encoder_options:
        request.tell(
            f"Encoder options have no meaning for pictures and Y4M: {n_plain} of {len(todo)} files go without."
        )
    try:
        if todo:
            _run(request, record, todo, get_model_facts, results)
    finally:
        # After Ctrl-C, too, one wants to know what is done.
        print_batch(results, n_left=n_all - len(results), quiet=request.quiet)
        if request.report:
            facts = {"flashvsr": __version__, "files": [result.to_json() for result in results]}
            write_report(facts, request.report, overwrite=request.overwrite)
    return n_all == len(results) and not any(result.state == "failed" for result in results)


def _run(
    request: BatchRequest,
    record: Record,
    todo: Sequence[Choice],
    get_model_facts: Callable[[], dict[str, Any]],
    results: list[BatchResult],
) -> None:
    def load() -> tuple["Upscaler", Settings]:
        from flashvsr_cli.startup import load_and_tell  # loads torch, which files that cannot be read need not wait for

        upscaler = load_and_tell(request.model, quiet=request.quiet)
        return upscaler, request.choose_settings(upscaler.default_settings)

    with output_faults(str(request.options.folder)):
        request.options.folder.mkdir(parents=True, exist_ok=True)
    jobs = [choice.job for choice in todo if choice.job is not None]
    estimate = Estimate([job.target for job in jobs])
    listener = batch_reporter(estimate, quiet=request.quiet)
    run = BatchRun(load, request.options, listener, record, lambda job: settings_of(job, get_model_facts()), results)
    with nullcontext() if request.quiet else probing(jobs, estimate):
        run.run(todo)
