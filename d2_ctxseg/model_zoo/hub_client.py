"""Access to the Hugging Face Hub through huggingface_hub, which is an optional package."""

import shutil
from pathlib import Path

from ..utils.errors import MissingFileError, UserError
from ..utils.own_modules import is_file_name
from ..utils.yaml_files import read_yaml

CONFIG_FILE = "config.yaml"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
#: Python files of a model's author, where the config's IMPORTS names them.
CODE_FILES = "imports/*.py"

_UNREACHABLE = (
    "ConnectError",
    "ConnectTimeout",
    "ConnectionError",
    "LocalEntryNotFoundError",
    "OfflineModeIsEnabled",
)


def require_hub():
    """Import the package huggingface_hub; raise UserError if it is not installed."""
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise UserError(
            "Models on the Hugging Face Hub need the package huggingface_hub: "
            "pip install huggingface_hub"
        ) from error
    return huggingface_hub


def download(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Download the config, weights and model card of a model on the Hub.

    Files that were downloaded before are read from huggingface_hub's cache.

    Args:
        repo_id: "user/model".
        revision: a branch, tag or commit; None: the newest.
        token: token for private models; None: the token of ``hf auth login``.
        cache_dir: folder of the downloaded files; None: huggingface_hub's cache.
        trust_remote_code: also download the Python files of a model that has some (IMPORTS). They
            are run when the model is loaded.

    Returns:
        The folder with the files.

    Raises:
        UserError: huggingface_hub is not installed, the model does not exist, the Hub cannot be
            reached, the config would read other files, or the model has Python files and
            ``trust_remote_code`` is False.
        MissingFileError: the model is not a model of this project.
    """
    hub = require_hub()
    patterns = [CONFIG_FILE, WEIGHTS_FILE, CARD_FILE]
    try:
        folder = hub.snapshot_download(
            repo_id,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            allow_patterns=[*patterns, CODE_FILES] if trust_remote_code else patterns,
        )
    except Exception as error:  # of the Hub, of its cache, of httpx or requests
        raise UserError(_explain(error, repo_id)) from error
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (Path(folder) / name).is_file()]
    if missing:
        raise MissingFileError(
            f"'{repo_id}' on the Hub has no {' and no '.join(missing)}, so it is not a model that "
            "push_to_hub of d2_ctxseg uploaded."
        )
    _check_config(Path(folder), repo_id, trust_remote_code)
    return Path(folder)


def upload(
    folder: Path, repo_id: str, *, private: bool, token: str | None, commit_message: str
) -> str:
    """Upload the files of a folder by huggingface_hub's mixin; returns the URL of the model's page.

    Args:
        folder: the folder to upload.
        repo_id: "user/model"; the repository is created if it does not exist.
        private: whether a new repository is private.
        token: a token with write access; None: the token of ``hf auth login``.
        commit_message: commit message of the upload.

    Raises:
        UserError: huggingface_hub is not installed, nobody is logged in, or the Hub rejects the
            upload.
    """
    hub = require_hub()

    class SavedModel(hub.ModelHubMixin):
        """A model whose files, the card included, are in ``folder`` already."""

        def _save_pretrained(self, save_directory: Path) -> None:
            shutil.copytree(folder, save_directory, dirs_exist_ok=True)

    try:
        SavedModel().push_to_hub(
            repo_id, private=private, token=token, commit_message=commit_message
        )
    except Exception as error:
        raise UserError(_explain(error, repo_id, is_upload=True)) from error
    return f"https://huggingface.co/{repo_id}"


def _explain(error: Exception, repo_id: str, *, is_upload: bool = False) -> str:
    kind = type(error).__name__
    detail = (str(error).strip().splitlines() or [kind])[0]
    if kind in ("RepositoryNotFoundError", "HFValidationError"):
        reason = "there is no such model, or it is private: log in with 'hf auth login'."
    elif kind == "RevisionNotFoundError":
        reason = "it has no such revision."
    elif kind == "GatedRepoError":
        reason = "its owner has to grant you access on its page."
    elif kind in _UNREACHABLE:
        reason = "the Hub cannot be reached"
        reason += "." if is_upload else ", and the model was not downloaded before."
    elif kind == "LocalTokenNotFoundError" or "401" in detail:
        reason = "log in with 'hf auth login', or pass a token."
    else:
        reason = f"{kind}."
    return f"'{repo_id}' on the Hugging Face Hub: {reason} ({detail})"


def _check_config(folder: Path, repo_id: str, trust_remote_code: bool) -> None:
    """A stranger's config must not make this machine read or run anything without being asked."""
    content = read_yaml(folder / CONFIG_FILE)
    content = content if isinstance(content, dict) else {}
    if content.get("_BASE_"):
        raise UserError(
            f"The config of '{repo_id}' on the Hub has _BASE_: {content['_BASE_']}, which would "
            "read another file of this machine. push_to_hub writes configs without it."
        )
    imports = content.get("IMPORTS") or []
    if imports and not trust_remote_code:
        raise UserError(
            f"The model '{repo_id}' on the Hub has Python code of its author, IMPORTS: {imports}, "
            f"which would run on this machine. Read it, https://huggingface.co/{repo_id}/tree/main,"
            f" and if you trust it: load_segmentor('{repo_id}', trust_remote_code=True), best with "
            "the revision that you read; for a command, hf download it and name the folder as "
            "--model."
        )
    files = [str(place) for place in imports if is_file_name(str(place))]
    strange = [
        file for file in files if not Path(file).match(CODE_FILES) or len(Path(file).parts) != 2
    ]
    missing = [file for file in files if not (folder / file).is_file()]
    if strange or missing:
        raise UserError(
            f"The config of '{repo_id}' on the Hub has IMPORTS: {(strange or missing)[0]}, which "
            f"{'is outside of' if strange else 'is not in'} its folder of code, "
            f"{Path(CODE_FILES).parent}/."
        )
