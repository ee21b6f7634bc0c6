from __future__ import annotations

import http.client
import importlib
import urllib.error
import urllib.request
from typing import Any

import numpy as np

from train_val.data.image_data import DataError

_SECONDS_TO_ANSWER = 10


def tfds_examples(name: str, split: str) -> dict[str, np.ndarray]:
    """Returns all examples of a split of a data set of tensorflow-datasets; may download them.

    Args:
      name: The name of the data set in tensorflow-datasets.
      split: "train" or "test".

    Returns:
      The features ("image", "label", ...), each an array with a row for each example.

    Raises:
      DataError: If the data set is not there yet and can't be downloaded.
    """
    tfds = import_tfds(f"{name} without its folder")
    try:
        builder = tfds.builder(name)
        if not builder.is_prepared():
            _check_network(builder)
            builder.download_and_prepare()
        return tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
    except DataError:
        raise
    except Exception as error:  # tensorflow-datasets and its dependencies may raise anything
        raise DataError(_cannot_download(name, error)) from error


def import_tfds(what: str) -> Any:
    """Returns the module tensorflow_datasets.

    It is imported where it is asked for: those who read files need not wait for it, nor need it to
    be there and to work.

    Args:
      what: What it is needed for, for the error.

    Raises:
      DataError: If it can't be imported.
    """
    try:
        return importlib.import_module("tensorflow_datasets")
    except Exception as error:  # what is installed with it may not fit, and raise anything
        first_line = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise DataError(
            f"Expected tensorflow-datasets for {what}, could not import it ({first_line}): run"
            " pip install --upgrade tensorflow-datasets, or give the folder of the files as"
            " data_dir."
        ) from error


def _check_network(builder: Any) -> None:
    # tensorflow-datasets retries for over three minutes before it reports that there is no
    # network; a single request to the same server shows it at once.
    for url in list(builder.url_infos)[:1]:
        request = urllib.request.Request(url, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=_SECONDS_TO_ANSWER).close()
        except urllib.error.HTTPError:
            pass  # A refusal is an answer too: the network is there.
        except (OSError, http.client.HTTPException) as error:
            raise DataError(_cannot_download(builder.name, error)) from error


def _cannot_download(name: str, error: Exception) -> str:
    cause = getattr(error, "reason", None) or error
    first_line = (str(cause).splitlines() or [""])[0] or type(error).__name__
    return (
        f"Expected {name} from tensorflow-datasets, could not load or download it"
        f" ({first_line}): connect to the network, or give the folder of its files as"
        " data_dir."
    )
