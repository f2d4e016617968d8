"""File names in a value of the command line."""

import os


def is_file(name: str) -> bool:
    """Whether there is such a file; ~ is the home directory."""
    return os.path.isfile(os.path.expanduser(name))


def split_paths(value: str) -> list[str]:
    """'cat.png' or 'cat.png,dog.png' -> the names of files, with a comma between two.

    A name may have commas itself where there is a file of that name: the longest one that exists is taken whole. Raises
    ValueError if a name is empty.
    """
    words, names = value.split(","), []
    while words:
        lengths = range(len(words), 0, -1)
        length = next((n for n in lengths if is_file(",".join(words[:n]))), 1)
        names.append(",".join(words[:length]))
        words = words[length:]
    if "" in names:
        raise ValueError(f"{value!r} should be a file, or files with one comma between two")
    return names
