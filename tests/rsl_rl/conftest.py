"""One thread for torch: of products as small as these, several wait for each other ten times longer than they work."""

import contextlib

with contextlib.suppress(ImportError):
    import torch

    torch.set_num_threads(1)
