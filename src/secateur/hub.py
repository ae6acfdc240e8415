"""Files on the Hugging Face Hub: put there in one commit, taken from there by name and revision; each fault is one sentence.

huggingface_hub is imported when it is first needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from secateur import zoo

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

SOURCE = "hub"  # in the `made` of an artifact: the owner/name@commit that it was taken from
FILES = ("*.json", "*.safetensors", "*.txt", "*.model")  # of a pipeline: no pickles and no code
README, INDEX, TAG = "README.md", "model_index.json", "secateur"
NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
LICENSE = ("license", "license_name", "license_link")
T = TypeVar("T")


class Taken(NamedTuple):
    """A file or folder in huggingface_hub's cache, and the owner/name@commit of it."""

    path: Path
    source: str


def is_name(name: str | Path) -> bool:
    """Whether this can only be meant for "owner/name" or "owner/name@revision": it is no file or folder here, and no JSON."""
    return bool(NAME.fullmatch(str(name))) and not str(name).endswith(".json") and not Path(name).exists()


def split(name: str) -> tuple[str, str | None]:
    """owner/name, and the revision if there is one. Raises ValueError if it is no such name."""
    if not (match := NAME.fullmatch(name)):
        raise ValueError(f"found {name!r} for a repository on the Hub: give owner/name, or owner/name@revision to read")
    return match[1], match[2]


def take(name: str, file: str) -> Taken:
    """One file of a repository. Raises OSError, one sentence, if it cannot be had."""
    folder, source = take_all(name, (file,))
    if not (folder / file).is_file():
        raise FileNotFoundError(f"{source} on the Hub has no {file}: give a repository that `secateur push` made")
    return Taken(folder / file, source)


def take_all(name: str, patterns: tuple[str, ...]) -> Taken:
    """The folder with a repository's files whose names fit one of the patterns. Raises OSError, one sentence, if it fails."""
    from huggingface_hub import snapshot_download  # which, unlike hf_hub_download, does not wait half a minute for a network

    repo, revision = split(name)
    with plainly(name):
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    return Taken(folder, f"{repo}@{folder.name}")


def load(taken: Taken, read: Callable[[Path], T]) -> T:
    """What `read` makes of what was taken; an artifact's `made` says from where. Its messages name the repository."""
    try:
        thing: Any = read(taken.path)
    except (ValueError, OSError) as error:
        folder = taken.path if taken.path.is_dir() else taken.path.parent
        raise type(error)(str(error).replace(f"{folder}/", f"{taken.source} on the Hub: ")) from error
    return replace(thing, made={**thing.made, SOURCE: taken.source}) if hasattr(thing, "made") else thing


def put(repo: str, files: Mapping[str, bytes | Path], *, private: bool = False) -> str:
    """owner/name@commit: these files, by their names there, in one commit, all or none. A missing repository is made first.

    Raises OSError, one sentence, if that fails, or if the repository holds something that secateur did not put there.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if split(repo)[1]:
        raise ValueError(f"found a revision in {repo!r} and a push makes a new one: give owner/name alone")
    if get_token() is None:
        raise PermissionError("there is no Hub token here, and one that may write is wanted: `hf auth login`, or set HF_TOKEN")
    api, additions = HfApi(library_name=TAG), [CommitOperationAdd(name, content) for name, content in files.items()]
    with plainly(repo):
        api.create_repo(repo, private=private or None, exist_ok=True)
        check_ours(api.model_info(repo), files, private=private)
        return f"{repo}@{api.create_commit(repo, additions, commit_message='Pushed by secateur').oid}"


def check_ours(info: ModelInfo, files: Mapping[str, Any], *, private: bool) -> None:
    """Raises OSError if a repository is public against what was asked, or holds something else than these files would renew."""
    there = {sibling.rfilename for sibling in info.siblings or ()} - {".gitattributes"}
    if private and not info.private:
        raise PermissionError(f"{info.id} is public and a private one is wanted: make it private first, or give a new name")
    tags = (info.card_data.get("tags") or ()) if info.card_data else ()
    if there and (TAG not in tags or (INDEX in there) != (INDEX in files)):
        what = "a pipeline" if INDEX in there else "files"
        raise FileExistsError(f"{info.id} holds {what} that this would not replace but mix with: give a new repository")


def heading(base: str, *, library: str, relation: str) -> str:
    """The YAML above a model card: the base, its license as its own card says it, and the tags by which the Hub finds it."""
    from huggingface_hub import HfApi, ModelCardData

    facts: dict[str, Any] = {"license": "apache-2.0"} if base in zoo.NAMES else {"base_model": base}
    if base not in zoo.NAMES:
        with plainly(base):
            card = HfApi().model_info(split(base)[0]).card_data
        facts |= {"base_model_relation": relation} | {key: card[key] for key in LICENSE if card and card.get(key)}
    if "license_link" in facts and ":" not in facts["license_link"]:  # a file in the base's repository
        facts["license_link"] = f"https://huggingface.co/{base}/blob/main/{facts['license_link']}"
    return f"---\n{ModelCardData(**facts, library_name=library, tags=[TAG, 'diffusers']).to_yaml()}\n---\n"


@contextmanager
def plainly(name: str) -> Iterator[None]:
    """What the Hub or the network refuses inside becomes an OSError of one sentence."""
    from huggingface_hub import errors

    try:
        yield
    except (errors.HTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, RuntimeError) as error:
        causes: list[BaseException] = [error]
        while causes[-1].__cause__:
            causes.append(causes[-1].__cause__)
        answered = next((cause for cause in causes if isinstance(cause, errors.HfHubHTTPError)), None)
        if answered is None:
            reason = str(causes[-1]).splitlines()[0][:90]
            raise ConnectionError(f"the Hub cannot be reached for {name} ({reason}): connect, or give a file here") from error
        raise refusal(answered, name) from error


def refusal(error: Any, name: str) -> OSError:
    """The sentence for what the Hub answered."""
    from huggingface_hub import errors

    repo, status = name.partition("@")[0], error.response.status_code
    if isinstance(error, errors.GatedRepoError):
        return PermissionError(f"{repo} is gated: accept its terms on its page on the Hub, then `hf auth login`")
    if isinstance(error, errors.RepositoryNotFoundError):
        return FileNotFoundError(
            f"the Hub has no repository {repo} that you may read, nor is there such a file here: check the name, or run "
            "`hf auth login` if it is private"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return FileNotFoundError(f"{repo} has no revision {name.partition('@')[2]!r}: give a branch, tag or commit of it")
    if status in (401, 403):
        return PermissionError(f"your Hub token may not do this to {repo}: take one that may, by `hf auth login` or HF_TOKEN")
    return ConnectionError(f"the Hub answered {status} for {repo} ({error.server_message or 'no reason given'}): try again")
