"""Serves the web page to this machine alone; nothing that it or the browser does leaves the machine."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nofreelunch.app.question import Place
from nofreelunch.errors import InputError, needed

_HOST = "127.0.0.1"
_POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    b"form-action 'self'; frame-ancestors 'self'"
)


_STYLE = """
.plot { margin: 0; } .plot svg { width: 100%; max-width: 44rem; height: auto; }
.solved table, .solved th, .solved td { border-color: var(--border-color-primary) !important; }
"""


class Sealed:
    """ASGI middleware that tells browsers to load nothing from elsewhere, whatever Gradio's page asks for."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, with one header more."""

        async def sealed(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"content-security-policy", _POLICY)]}
            await send(message)

        await self._app(scope, receive, sealed)


@contextmanager
def served(place: Place, port: int | None = None, browser: bool = False) -> Iterator[str]:
    """The page's address, for the time of the block.

    Args:
        port: at which it listens; None takes the first free one from 7860 on.

    Raises:
        InputError: if Gradio is not installed, the port is not free, or the folder of data sets does not exist.
    """
    themes = needed("gradio.themes", "app", "app")
    import matplotlib
    from starlette.middleware import Middleware

    from nofreelunch.app.layout import page

    matplotlib.use("agg")  # figures are drawn outside the main thread, where windows may not be made
    blocks = page(place)
    try:
        _, address, _ = blocks.launch(
            server_name=_HOST, server_port=port, inbrowser=browser, share=False, quiet=True, prevent_thread_lock=True,
            ssr_mode=False, mcp_server=False, run_history=False, footer_links=[],
            app_kwargs={"middleware": [Middleware(Sealed)]},
            theme=themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            css=_STYLE,
        )  # fmt: skip
    except OSError:
        raise InputError(f"port {port or '7860 and those after it'} is in use; give another --port") from None
    try:
        yield address
    finally:
        blocks.close(verbose=False)


def serve(place: Place, port: int | None = None, browser: bool = False) -> None:
    """Serve the page and print its address, until a signal ends it; arguments and errors as `served`."""
    with served(place, port, browser) as address:
        print(f"page: {address} (Ctrl-C ends it)", flush=True)
        threading.Event().wait()
