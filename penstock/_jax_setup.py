"""How commands, and `penstock.train`, set JAX up. Importing the library touches none of this."""

import logging
import os
import sys
from pathlib import Path

from penstock._errors import PenstockError
from penstock._processor import description, rows_compete, suit


def set_up_jax() -> None:
    """Chooses defaults for JAX, before its first use. What the user has set in the environment wins.

    * One thread per matrix product on CPUs: the matrices of a policy are small, so that handing them to several threads
      costs more CPU time than it saves, and results no longer depend on the number of cores.
    * Programs run in the calling thread on CPUs. Handing them to a worker thread gains nothing here, and has been seen
      to wait for ever on a busy machine with two cores (JAX 0.10.2).
    * Layers take the form that suits the processor (`penstock._processor`).
    * Compiled programs are kept in ``$XDG_CACHE_HOME/penstock`` (``PENSTOCK_CACHE`` overrides; empty turns it off).
      Where that cannot be written, a sentence says so and every program is compiled anew.

    Raises:
        PenstockError: JAX cannot use the platform that ``JAX_PLATFORMS`` names, or is to compute in float64.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    import jax

    if jax.config.read("jax_enable_x64"):
        raise PenstockError(
            "JAX_ENABLE_X64 is set: Penstock computes in float32 throughout, so that worlds, states and checkpoints of "
            "all machines agree. Unset it, or set it to 0."
        )
    if "JAX_CPU_ENABLE_ASYNC_DISPATCH" not in os.environ:
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)  # an accelerator that is absent is no news
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        wanted = os.environ.get("JAX_PLATFORMS", "")
        reason = str(error).partition("\n")[0] or "no such device was found"
        raise PenstockError(
            f"JAX cannot start on JAX_PLATFORMS={wanted!r}: {reason}. Unset JAX_PLATFORMS, or set it to cpu."
        ) from error

    suit(pad_rows=rows_compete(description(), jax.default_backend()))
    cache = os.environ.get("PENSTOCK_CACHE")
    if cache is None:
        home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        cache = str(Path(home) / "penstock" / "programs")
    if cache and not _writable(Path(cache)):
        print(f"Compiled programs are not kept: {cache} cannot be written. Set PENSTOCK_CACHE.", file=sys.stderr)
    elif cache and getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def _writable(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK | os.X_OK)
