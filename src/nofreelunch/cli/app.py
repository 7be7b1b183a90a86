"""`nofreelunch app`: a web page on this machine that explains models and shows the theory."""

from dataclasses import dataclass

from nofreelunch.cli.values import DataRoot, Device, OptionalInt
from nofreelunch.errors import InputError
from nofreelunch.workspace import find_device

_PORTS = range(1, 2**16)


@dataclass(frozen=True)
class App:
    """Serve a web page to this machine: explain and evaluate the package's models, and the theory with sliders.

    Needs `pip install 'nofreelunch[app]'`; sends nothing to anybody. Ctrl-C ends it.
    """

    port: OptionalInt = None
    """At which it listens, on 127.0.0.1 only; default: the first free one from 7860 on."""
    open: bool = False
    """Open the page in the browser."""
    data_root: DataRoot = None
    device: Device = "auto"

    def run(self) -> int:
        """Serve until a signal comes."""
        from nofreelunch.app.question import Place
        from nofreelunch.app.server import serve

        if self.port is not None and self.port not in _PORTS:
            raise InputError(f"port must be a whole number from {_PORTS[0]} to {_PORTS[-1]}, got {self.port}")
        serve(Place(find_device(self.device), self.data_root), self.port, self.open)
        return 0
