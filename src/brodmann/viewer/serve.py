"""The viewer's server: loopback only, a new token every time, until it is stopped."""

from __future__ import annotations

import importlib
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from brodmann.errors import Refused, Usage
from brodmann.progress import Say, size

LOOPBACK = "127.0.0.1"
_CLIENTS = 128


def view(runs: str | Path | Sequence[str | Path], *, port: int = 0, browser: bool = True, quiet: bool = False) -> None:
    """Open runs in the browser as linked views, until Ctrl-C.

    Parameters
    ----------
    runs : path or sequence of paths
        Run folders with feature tables; the page switches between them.
    port : int
        Of 127.0.0.1; any free one by default.
    browser : bool
        Also open the page.
    quiet : bool
        Say nothing but the address.

    Returns
    -------
    None
        When it is ended.

    Raises
    ------
    Refused
        A folder has no feature table, or the extra ``view`` is not installed.
    Usage
        The port is taken.
    """
    say = Say(quiet=quiet)
    paths = [runs] if isinstance(runs, str | Path) else list(runs)
    application = opened(paths, token := secrets.token_urlsafe(24), say)
    listening = bound(port)
    address = f"http://{LOOPBACK}:{listening.getsockname()[1]}/{token}/"
    Say()(f"{address}\nonly this machine can open it, and only with the whole address; Ctrl-C ends it")
    if browser:
        import webbrowser

        webbrowser.open(address)
    _run(application, listening)


def opened(paths: Sequence[str | Path], token: str, say: Say) -> Any:
    """The application for some run folders; says how much memory they take."""
    for name in ("starlette", "uvicorn"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise Refused(
                "the viewer needs a web server.", found=f"no {name}.", do="pip install 'brodmann[view]'."
            ) from error
    from brodmann.viewer.routes import TILES_BYTES, application
    from brodmann.viewer.scene import Scene

    if not paths:
        raise Usage("name at least one run.", found="none.")
    scenes = [Scene(Path(path), say) for path in paths]
    for scene in scenes:
        say(f"{scene.name}: laying out {scene.n:,} rows")
        # now, and not while the first page waits for it, nor in two threads at once
        _ = scene.plane, scene.alike, scene.window, scene.colouring(next(iter(scene.colourings)))
        _ = [sheet.grid for sheet in scene.sheets]
        say(f"{scene.name}: {scene.n:,} rows on {len(scene.sheets)} sections, {size(scene.nbytes())}")
        for remark in scene.remarks:
            say(f"{scene.name}: {remark}")
    say(f"memory: these, and {size(TILES_BYTES)} of tiles beside the open images")
    return application(scenes, token)


def bound(port: int) -> socket.socket:
    """A socket that listens on this machine alone.

    Raises
    ------
    Usage
        The port is taken, or none.
    """
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((LOOPBACK, port))
        made.listen(_CLIENTS)
    except (OSError, OverflowError) as error:
        made.close()
        raise Usage(f"port {port} of this machine should be free.", found=f"{error}.", do="name another.") from error
    return made


def _run(application: Any, listening: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(
        application, log_level="warning", access_log=False, server_header=False, lifespan="off",
        limit_concurrency=_CLIENTS, timeout_keep_alive=20, ws="none", proxy_headers=False,
    )  # fmt: skip
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    finally:
        listening.close()
