"""One of our pages inside the web page."""

from html import escape

_AS_HIGH_AS_ITS_PAGE = (  # also if it is loaded in a hidden tab, where it has no height yet
    "const page = this.contentDocument.documentElement; new ResizeObserver(() => "
    "{ if (page.offsetHeight) this.style.height = page.offsetHeight + 'px' }).observe(page)"
)


def framed(page: bytes, title: str) -> str:
    """HTML that shows the page: apart from the styles around it, without scripts, as high as it is."""
    return (
        f'<iframe title="{escape(title)}" srcdoc="{escape(page.decode())}" sandbox="allow-same-origin" '
        f'style="width: 100%; height: 60rem; border: 0" onload="{_AS_HIGH_AS_ITS_PAGE}"></iframe>'
    )
