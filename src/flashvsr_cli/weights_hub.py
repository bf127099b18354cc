"""Files of weights.toml in the Hugging Face Hub's cache: found there, or downloaded into it; or in this package.

huggingface_hub itself cannot go on with an interrupted download: it writes to a file of a random name and
removes it on failure, over plain HTTP as over Xet (its issue 4196). So the bytes are fetched here with its own
`http_get`, over plain HTTP with a Range header, into a partial file named after the expected hash. Only a whole
file with the right hash is moved into the cache, where `hf_hub_download` then links it into the snapshot.
HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HOME and HF_HUB_CACHE mean what they mean to that library.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from flashvsr_cli.errors import WeightsError
from flashvsr_cli.weights_check import OnBytes, check_file
from flashvsr_cli.weights_registry import KnownFile

PACKAGE = Path(__file__).resolve().parent


def local_path(file: KnownFile) -> Path | None:
    """Where the file lies in this package or in the Hub's cache; None if it is not there. Needs no network."""
    if file.is_packaged:
        path = PACKAGE / file.path
        return path if path.is_file() else None
    if file.repository is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(file.repository, file.path, revision=file.revision)
    return Path(found) if isinstance(found, str) else None


def how_to_mend(file: KnownFile, model: str) -> str:
    """What the user can do about a file of a model that is not what it should be."""
    return "Install flashvsr-cli again." if file.is_packaged else f"Run `flashvsr weights download {model} --force`."


def download(file: KnownFile, next_step: str, force: bool, on_download: OnBytes, on_verify: OnBytes) -> Path:
    """Fetch a file into the Hub's cache, going on where an earlier attempt stopped, and verify it.

    Args:
        file: what to fetch.
        next_step: what the user can do if something else arrives.
        force: begin anew, and replace what the cache holds.
        on_download: told how many bytes are on disk.
        on_verify: told how many bytes are hashed.

    Raises:
        WeightsError: if the Hub cannot be reached or refuses, the disk is full, or something else arrives.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import WeakFileLock

    if file.repository is None:
        raise WeightsError(f"{file.file_name} cannot be downloaded.", next_step)
    with _translated_errors(file):
        url = hf_hub_url(file.repository, file.path, revision=file.revision)
        metadata = get_hf_file_metadata(url)
        if metadata.size is not None and not file.has_size(metadata.size):
            raise WeightsError(
                f"{file.file_name} at {url} has {metadata.size} bytes instead of {file.n_bytes}.",
                "The repository has changed or HF_ENDPOINT is no true mirror: unset it or upgrade flashvsr-cli.",
            )
        if not metadata.etag or not metadata.commit_hash:
            raise WeightsError(f"{url} is not answered by a Hugging Face Hub.", "Check HF_ENDPOINT and your proxy.")
        cache = Path(constants.HF_HUB_CACHE)
        folder = repo_folder_name(repo_id=file.repository, repo_type="model")
        blob = cache / folder / "blobs" / metadata.etag.replace("/", "_")
        partial = blob.with_name(f"{file.sha256}.flashvsr.incomplete")
        lock = cache / ".locks" / folder / f"{file.sha256}.flashvsr.lock"
        for path in (partial, lock):
            path.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            if force:
                partial.unlink(missing_ok=True)
            if force or not blob.exists():
                # The commit, not the branch: a resumed file must not change while it is fetched.
                fixed_url = hf_hub_url(file.repository, file.path, revision=metadata.commit_hash)
                fetch_partial(fixed_url, partial, metadata.size or file.n_bytes, on_download)
                _verify_partial(partial, file, next_step, on_verify)
                partial.replace(blob)
                if force:
                    _forget_pointers(blob.parents[1], file.path)
        return Path(hf_hub_download(file.repository, file.path, revision=file.revision))


def _verify_partial(partial: Path, file: KnownFile, next_step: str, on_verify: OnBytes) -> None:
    try:
        check_file(partial, file, next_step, on_verify)
    except WeightsError:
        partial.unlink()  # resuming could only give the same wrong file
        raise


def _forget_pointers(repository_folder: Path, path: str) -> None:
    """Remove the snapshots' entries for a file, so that they are made anew from the blob just replaced."""
    for pointer in repository_folder.glob(f"snapshots/*/{path}"):
        pointer.unlink()


def fetch_partial(url: str, partial: Path, n_bytes: int, on_download: OnBytes) -> None:
    """Complete a partial file of `n_bytes` in the end; tries again as long as every attempt brings bytes.

    Raises:
        WeightsError: if the disk has too little space. What http_get raises is passed on.
    """
    from huggingface_hub.errors import HfHubHTTPError, HTTPError
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    # A compressed answer cannot be resumed.
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    while True:
        with partial.open("ab") as stream:
            n_had = stream.tell()
            if n_had > n_bytes:
                stream.truncate(0)
                n_had = 0
            if shutil.disk_usage(partial.parent).free < n_bytes - n_had:
                raise WeightsError(
                    f"{partial.parent} has too little space for {(n_bytes - n_had) / 1e9:.1f} GB.",
                    "Free some space, or set HF_HOME to a folder on another disk.",
                )
            try:
                http_get(
                    url,
                    stream,
                    resume_size=n_had,
                    headers=headers,
                    expected_size=n_bytes,
                    tqdm_class=_bar_class(on_download),
                )
            except HfHubHTTPError:
                raise
            except HTTPError:
                stream.flush()
                if stream.tell() <= n_had:
                    raise
            else:
                return


def _bar_class(on_bytes: OnBytes) -> Any:
    """What http_get takes for a tqdm: it only counts, and passes the count on."""

    class Bar:
        def __init__(self, *, initial: int = 0, **_unused: object) -> None:
            self.n = initial
            on_bytes(self.n)

        def __enter__(self) -> "Bar":
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            pass

        def update(self, n: int) -> None:
            self.n += n
            on_bytes(self.n)

    return Bar


@contextmanager
def _translated_errors(file: KnownFile) -> Iterator[None]:
    """Turn what huggingface_hub and the disk raise into one sentence and a next step."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    what = f"{file.file_name} of {file.repository} cannot be downloaded from {constants.ENDPOINT}"
    by_hand = "get the files by hand and use --model FOLDER"
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise WeightsError(
            f"{file.file_name} of {file.repository} is not in the cache and HF_HUB_OFFLINE is set.",
            f"Unset HF_HUB_OFFLINE, or {by_hand}.",
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        reason, next_step = {
            401: ("access was refused (401)", "Check HF_TOKEN, or unset it: the released weights need none"),
            403: (
                "access was forbidden (403)",
                "Check HF_TOKEN, or unset it: the released weights need none",
            ),
            404: (
                f"it is not there (404, revision {file.revision})",
                "Check HF_ENDPOINT, upgrade flashvsr-cli",
            ),
        }.get(status, (f"the server answered {status}", "Try again later, set HF_ENDPOINT to a mirror"))
        raise WeightsError(f"{what}: {reason}.", f"{next_step}, or {by_hand}.") from error
    except HTTPError as error:
        timed_out = any(kind.__name__ == "TimeoutException" for kind in type(error).__mro__)
        reason = "the server does not answer in time" if timed_out else f"no connection ({error})"
        raise WeightsError(
            f"{what}: {reason}.",
            f"Run the command again to go on where it stopped, set HF_ENDPOINT to a mirror, or {by_hand}.",
        ) from error
    except OSError as error:
        raise WeightsError(
            f"{what}: {error.strerror or error}.",
            f"Run the same command again, check HF_HOME's disk, or {by_hand}.",
        ) from error
